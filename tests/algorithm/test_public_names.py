"""What others may rely on: the public names of the algorithm, and that it needs nothing but torch and the domain."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import fedafd.algorithm

PUBLIC = {
    "adamp_on_device": {"step_matrices"},
    "agreement": {
        "FEWEST_CLIENTS",
        "KnownRows",
        "added",
        "adding_nothing",
        "agreements",
        "least_agreeing",
        "mean_similarity",
        "near_copies",
        "num_trimmed",
        "unit_rest",
    },
    "at_once": {
        "contrast_losses",
        "fooling_loss",
        "head_losses",
        "pairing_at_once",
        "takes_at_once",
        "telling_loss",
    },
    "alignment": {"BiLevelAlignment", "Discriminator", "backward_balanced", "info_nce", "pairing_loss"},
    "centring": {"centre", "public_mean"},
    "checks": {
        "InvalidTensorError",
        "check_finite",
        "check_labels",
        "check_positive",
        "check_same_shape",
        "check_shape",
        "compute_dtype",
    },
    "choices": {"as_good"},
    "contrastive": {"SoftContrastiveLoss"},
    "distillation": {
        "MeanEnsemble",
        "SimilarityEnsemble",
        "distillation_loss",
        "distillation_targets",
        "scores_without",
        "similarity_scores",
        "similarity_weights",
    },
    "fedmd": {"MeanEnsemble", "digest_loss"},
    "flash_scores": {"corrected", "fits", "flash_scores", "logit_error"},
    "fusion": {"GATE_OFFSETS", "GranularityAwareFusion", "calibrate_gate"},
    "heads": {"ClassificationHead"},
    "private_gradients": {"clipped_sum"},
    "creamfl": {"ContrastiveEnsemble", "inter_modal_contrast", "intra_modal_contrast"},
    "metrics": {
        "accuracy_at_k",
        "accuracy_scores",
        "class_weights",
        "fold_recall_at_k",
        "own_accuracy_at_k",
        "recall_at_k",
        "rsum",
        "scored_recall_at_k",
    },
    "optim": {"AdamP"},
    "label_head": {"LabelHead"},
    "label_metrics": {"check_label_sets", "label_ranking_scores", "mean_average_precision", "micro_f1"},
    "pooling": {"fit_pool", "fit_weights", "pooled", "pooled_labels"},
    "bounded_ranks": {"LEAST_DIM", "Side", "bounded_ranks", "has_rounded_products", "leave_out_own"},
    "ranks": {"TIE_ULPS", "retrieval_ranks"},
    "weight_cap": {"capped_scores", "capped_weights", "score_limit", "share_cap"},
    "similarity": {"fold_scores", "has_bfloat16", "longest_row", "similarity_scores"},
}

SOURCES = sorted(path for path in Path(fedafd.algorithm.__path__[0]).glob("*.py") if path.stem != "__init__")


def test_every_module_is_listed() -> None:
    assert {path.stem for path in SOURCES} == PUBLIC.keys()


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_pinned_and_documented(module: str) -> None:
    loaded = importlib.import_module(f"fedafd.algorithm.{module}")
    assert set(loaded.__all__) == PUBLIC[module]
    for name in loaded.__all__:
        if callable(getattr(loaded, name)):
            assert inspect.getdoc(getattr(loaded, name)), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_it_imports_only_torch_the_domain_and_the_standard_library(path: Path) -> None:
    standard = {"__future__", "collections", "contextlib", "dataclasses", "functools", "itertools", "math", "typing"}
    standard.add("threading")
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.split(".")[0] in standard | {"torch"} or name.startswith(("fedafd.algorithm", "fedafd.domain"))
