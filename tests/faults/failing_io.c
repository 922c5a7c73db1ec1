/* Makes the N-th open, read, write, fsync, rename, link, unlink or mkdir below some folders fail.
 *
 * tests/support/failing_io.py compiles it, and LD_PRELOAD loads it before libc. No call fails before failing_io_arm is
 * called. The call that fails is reported as a line: its kind, its name, whether it writes, its path. If none is to
 * fail, each counted call is reported.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN, READ, WRITE, FSYNC, RENAME, LINK, UNLINK, MKDIR };
static const char *const kinds[] = {"open", "read", "write", "fsync", "rename", "link", "unlink", "mkdir"};

static const char *watched; /* absolute folders, one per line; no call is counted while it is NULL */
static int wanted, error_number, report;
static long failing, seen;

/* Watch some folders.
 *
 * kind:  the kind of calls that are counted, by its place in `kinds`; -1 for all kinds.
 * nth:   the number of the call that fails, from 1; with 0 none fails, and each is reported.
 * error: the errno of the failing call.
 * to:    the file descriptor for the reports; its file must not be watched.
 */
void failing_io_arm(const char *folders, int kind, long nth, int error, int to) {
    wanted = kind, failing = nth, error_number = error, report = to, seen = 0;
    watched = strdup(folders);
}

static bool is_watched(const char *path) {
    for (const char *folder = watched; *folder;) {
        size_t length = strcspn(folder, "\n");
        if (strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0)) return true;
        folder += length + (folder[length] == '\n');
    }
    return false;
}

static void path_of_fd(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
}

/* Write the absolute path of a name in an open folder to `path`. */
static void absolute(int folder, const char *name, char path[PATH_MAX]) {
    path[0] = 0;
    if (name[0] != '/') {
        if (folder == AT_FDCWD ? getcwd(path, PATH_MAX) == NULL : (path_of_fd(folder, path), 0)) return;
        strncat(path, "/", PATH_MAX - strlen(path) - 1);
    }
    strncat(path, name, PATH_MAX - strlen(path) - 1);
}

/* Count a call on a path. Return whether it must fail, and set errno if so. */
static bool fails(enum kind kind, const char *call, bool writes, const char *path) {
    if ((wanted >= 0 && wanted != (int)kind) || !is_watched(path)) return false;
    bool now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST) == failing;
    if (now || failing == 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s\t%s\t%d\t%s\n", kinds[kind], call, writes, path);
        syscall(SYS_write, report, line, length);
    }
    if (now) errno = error_number;
    return now;
}

static bool fails_at(enum kind kind, const char *call, bool writes, int folder, const char *name) {
    int before = errno;
    char path[PATH_MAX];
    if (watched == NULL || name == NULL) return false;
    absolute(folder, name, path);
    bool now = fails(kind, call, writes, path);
    if (!now) errno = before;
    return now;
}

static bool fails_on(enum kind kind, const char *call, bool writes, int fd) {
    int before = errno;
    char path[PATH_MAX];
    if (watched == NULL || fd < 0) return false;
    path_of_fd(fd, path);
    bool now = fails(kind, call, writes, path);
    if (!now) errno = before;
    return now;
}

/* Define a function that returns `failure` if `failed`, and otherwise calls libc's own. */
#define WRAP(result, name, parameters, arguments, failed, failure) \
    result name parameters {                                       \
        static result(*real) parameters;                           \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);          \
        if (failed) return failure;                                \
        return real arguments;                                     \
    }

/* The same for the calls that open files. They have a mode if they create one. */
#define WRITES(flags) (((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0)
#define WRAP_OPEN(name)                                                                   \
    int name(const char *path, int flags, ...) {                                          \
        static int (*real)(const char *, int, ...);                                       \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);                                 \
        va_list more;                                                                     \
        va_start(more, flags);                                                            \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;           \
        va_end(more);                                                                     \
        return fails_at(OPEN, #name, WRITES(flags), AT_FDCWD, path) ? -1 : real(path, flags, mode); \
    }
#define WRAP_OPENAT(name)                                                                 \
    int name(int folder, const char *path, int flags, ...) {                              \
        static int (*real)(int, const char *, int, ...);                                  \
        if (real == NULL) real = dlsym(RTLD_NEXT, #name);                                 \
        va_list more;                                                                     \
        va_start(more, flags);                                                            \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;           \
        va_end(more);                                                                     \
        return fails_at(OPEN, #name, WRITES(flags), folder, path) ? -1 : real(folder, path, flags, mode); \
    }
#define WRAP_FOPEN(name) \
    WRAP(FILE *, name, (const char *path, const char *mode), (path, mode), \
         fails_at(OPEN, #name, strpbrk(mode, "wa+") != NULL, AT_FDCWD, path), NULL)

/* The same for calls that return -1: on a path in an open folder, and on an open file. */
#define WRAP_AT(kind, result, name, parameters, arguments, folder, path) \
    WRAP(result, name, parameters, arguments, fails_at(kind, #name, true, folder, path), -1)
#define WRAP_ON(kind, result, name, parameters, arguments, fd) \
    WRAP(result, name, parameters, arguments, fails_on(kind, #name, kind != READ, fd), -1)

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)
WRAP_FOPEN(fopen)
WRAP_FOPEN(fopen64)
WRAP_AT(OPEN, int, creat, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
WRAP_AT(OPEN, int, creat64, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
WRAP(DIR *, opendir, (const char *path), (path), fails_at(OPEN, "opendir", false, AT_FDCWD, path), NULL)
WRAP(DIR *, fdopendir, (int fd), (fd), fails_on(OPEN, "fdopendir", false, fd), NULL)

WRAP_ON(READ, ssize_t, read, (int fd, void *to, size_t n), (fd, to, n), fd)
WRAP_ON(READ, ssize_t, __read_chk, (int fd, void *to, size_t n, size_t size), (fd, to, n, size), fd)
WRAP_ON(READ, ssize_t, pread, (int fd, void *to, size_t n, off_t at), (fd, to, n, at), fd)
WRAP_ON(READ, ssize_t, pread64, (int fd, void *to, size_t n, off64_t at), (fd, to, n, at), fd)
WRAP_ON(READ, ssize_t, readv, (int fd, const struct iovec *to, int n), (fd, to, n), fd)
WRAP(struct dirent *, readdir, (DIR *folder), (folder), fails_on(READ, "readdir", false, dirfd(folder)), NULL)
WRAP(struct dirent64 *, readdir64, (DIR *folder), (folder), fails_on(READ, "readdir64", false, dirfd(folder)), NULL)
WRAP(void *, mmap, (void *to, size_t n, int protection, int flags, int fd, off_t at),
     (to, n, protection, flags, fd, at), fails_on(READ, "mmap", false, fd), MAP_FAILED)
WRAP(void *, mmap64, (void *to, size_t n, int protection, int flags, int fd, off64_t at),
     (to, n, protection, flags, fd, at), fails_on(READ, "mmap64", false, fd), MAP_FAILED)

WRAP_ON(WRITE, ssize_t, write, (int fd, const void *from, size_t n), (fd, from, n), fd)
WRAP_ON(WRITE, ssize_t, pwrite, (int fd, const void *from, size_t n, off_t at), (fd, from, n, at), fd)
WRAP_ON(WRITE, ssize_t, pwrite64, (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at), fd)
WRAP_ON(WRITE, ssize_t, writev, (int fd, const struct iovec *from, int n), (fd, from, n), fd)
WRAP_ON(WRITE, ssize_t, sendfile, (int fd, int from, off_t *at, size_t n), (fd, from, at, n), fd)
WRAP_ON(WRITE, ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t n), (fd, from, at, n), fd)
WRAP_ON(WRITE, ssize_t, copy_file_range, (int from, off64_t *at, int fd, off64_t *to, size_t n, unsigned int flags),
     (from, at, fd, to, n, flags), fd)
WRAP_ON(WRITE, int, ftruncate, (int fd, off_t n), (fd, n), fd)
WRAP_ON(WRITE, int, ftruncate64, (int fd, off64_t n), (fd, n), fd)

WRAP_ON(FSYNC, int, fsync, (int fd), (fd), fd)
WRAP_ON(FSYNC, int, fdatasync, (int fd), (fd), fd)

WRAP_AT(RENAME, int, rename, (const char *from, const char *to), (from, to), AT_FDCWD, to)
WRAP_AT(RENAME, int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to)
WRAP_AT(RENAME, int, renameat2, (int a, const char *from, int b, const char *to, unsigned int flags),
     (a, from, b, to, flags), b, to)

WRAP_AT(LINK, int, link, (const char *from, const char *to), (from, to), AT_FDCWD, to)
WRAP_AT(LINK, int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags),
     b, to)
WRAP_AT(LINK, int, symlink, (const char *from, const char *to), (from, to), AT_FDCWD, to)
WRAP_AT(LINK, int, symlinkat, (const char *from, int folder, const char *to), (from, folder, to),
     folder, to)

WRAP_AT(UNLINK, int, unlink, (const char *path), (path), AT_FDCWD, path)
WRAP_AT(UNLINK, int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags),
     folder, path)
WRAP_AT(UNLINK, int, rmdir, (const char *path), (path), AT_FDCWD, path)
WRAP_AT(UNLINK, int, remove, (const char *path), (path), AT_FDCWD, path)

WRAP_AT(MKDIR, int, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
WRAP_AT(MKDIR, int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode),
     folder, path)
