#!/bin/sh
# Makes offline.html: page.html, with the scripts in it that DVC's own page would load from a CDN, in the
# same versions. Needs npm. Their licences come along, and nothing in them ends the page's script early.
set -eu
cd "$(dirname "$0")"
away=$(mktemp -d)
trap 'rm -r "$away"' EXIT
for package in $(python -c 'import re; from dvc_render.vega import VegaRenderer as vega
print(*re.findall(r"/npm/([^\"]+)", vega.SCRIPTS))'); do
    name=${package%@*}
    mkdir "$away/$name"
    npm pack --silent --pack-destination "$away/$name" "$package" > "$away/packed"
    tar -xzf "$away/$name/$(cat "$away/packed")" -C "$away/$name"
    printf '<script>\n/* %s\n\n' "$package"
    cat "$away/$name/package/LICENSE"
    printf '*/\n'
    sed -e 's|</script|<\\/script|g' -e '/^\/\/# sourceMappingURL=/d' "$away/$name/package/build/$name.min.js"
    printf '</script>\n'
done > "$away/scripts.html"
sed -e "/{scripts}/{r $away/scripts.html" -e 'd' -e '}' page.html > "$away/page.html"
mv "$away/page.html" offline.html
