"""What metrics are called: a page says the field's words, with the key beside them."""

from __future__ import annotations

_WORDS = {
    "ACC_all": "accuracy",
    "ACC_top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "auroc": "area under the ROC curve",
    "ece": "expected calibration error",
    "mAP": "mean average precision",
    "mIoU": "mean IoU",
    "mAcc": "mean accuracy of the classes",
    "aAcc": "pixel accuracy",
    "knn_acc": "k-NN probe accuracy",
    "linear_acc": "linear probe accuracy",
    "attentive_acc": "attentive probe accuracy",
    "rankme": "RankMe, effective rank of the features",
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "reconstruction_loss": "reconstruction loss",
}


def named(key: str) -> str:
    """``ACC_all`` → ``accuracy (ACC_all)``; a key without words of its own, or whose words are the
    key itself, stays alone."""
    words = _WORDS.get(key)
    if words is None:
        return key
    return words if words.replace(" ", "_") == key else f"{words} ({key})"
