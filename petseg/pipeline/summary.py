"""The last lines of ``make repro``: how good the model is, and where to look."""

import json
import sys
from pathlib import Path


def summary(test_metrics: Path, train_metrics: Path, figures: Path, report: Path) -> str:
    """Return a few lines for a person from the pipeline's own files."""
    test = json.loads(test_metrics.read_text(encoding="utf-8"))
    train = json.loads(train_metrics.read_text(encoding="utf-8"))
    return "\n".join(
        (
            "",
            f"test Dice   {test['dice_per_image']:.4f}  (95 % interval {test['dice_per_image_low']:.4f} to "
            f"{test['dice_per_image_high']:.4f}, {test['photos']} photos)",
            f"all pet     {test['all_foreground']['dice_per_image']:.4f}  (the trivial answer)",
            f"best epoch  {train['best_epoch']} of {train['epochs']}, val Dice {train['val_dice']:.4f}",
            f"figures     {figures}/*.png",
            f"report      {report}, in a browser",
            "compare     make ui",
        )
    )


if __name__ == "__main__":
    print(summary(*map(Path, sys.argv[1:])))
