"""docs/reference/objectives.md, from the tables that API, planner and trainer read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from finetune_operator.api.compatibility import OBJECTIVE_MEANINGS, Method, Objective, Strategy
from finetune_operator.api.impossible import OBJECTIVE_IMPOSSIBLE, impossibility
from finetune_operator.api.layouts import OBJECTIVE_LAYOUTS
from finetune_operator.api.model_types import NO_HEAD
from finetune_operator.api.preference import OBJECTIVE_SETTINGS
from finetune_operator.api.proven import PROVEN
from finetune_operator.api.training import DEFAULT_LEARNING_RATES, LEARNING_RATE_SHARES

FILE_NAME: Final = "objectives.md"
_PROVEN, _ALLOWED, _REFUSED = "✓", "·", "–"


def objectives_page(generated: str) -> str:
    """Return the page; `generated` is the line that says how it was made."""
    methods = tuple(method for method in Method if method in DEFAULT_LEARNING_RATES)
    rows = (
        (
            f"`{objective}`",
            OBJECTIVE_MEANINGS[objective],
            ", ".join(f"`{layout}`" for layout in OBJECTIVE_LAYOUTS[objective]),
            f"[`training.{objective}`](finetunejob.md)" if objective in OBJECTIVE_SETTINGS else "",
            f"{LEARNING_RATE_SHARES[objective]:g} ×",
        )
        for objective in Objective
    )
    matrix = (
        (f"`{objective}`", f"`{method}`", *(_cell(objective, method, strategy) for strategy in Strategy))
        for objective in Objective
        for method in methods
    )
    refused = (
        (f"`{row.objective}`", f"`{row.method or 'any'}`", f"`{row.strategy or 'any'}`", row.why, row.remedy)
        for row in OBJECTIVE_IMPOSSIBLE
    )
    return "\n".join(
        (
            "# Objectives",
            "",
            generated,
            "",
            "What a job optimises (`spec.objective`). The default learning rate is that of the method (`training.learningRate` in",
            "[finetunejob.md](finetunejob.md)) times the last column. What each measures beside its loss: [metrics.md](metrics.md#measures).",
            "How the reference of preference training is asked: [explanation/preferences.md](../explanation/preferences.md).",
            "",
            *_table(("objective", "what", "formats of rows", "settings", "learning rate"), rows),
            "",
            "## Objective, method, strategy",
            "",
            f"{_PROVEN}: a test trains this very combination and compares it (`api/proven.py`, from which the tests take their cases).",
            f"{_ALLOWED}: trained for three steps by `make matrix` (tests/trainer/test_matrix.py), with the losses of one process where the",
            f"objective has the same for every split (`kto` has not); not a part of `make test`. {_REFUSED}: refused, with the reason in",
            "the table below or in [strategies.md](strategies.md#combinations-that-do-not-work).",
            "",
            *_table(("objective", "method", *(f"`{strategy}`" for strategy in Strategy)), matrix),
            "",
            *_table(("objective", "method", "strategy", "why", "instead"), refused),
            "",
            *_heads(),
            *CLASSES,
            "",
            *VECTORS,
            "",
            *SCORES,
            "",
            *DISTILLATION,
            "",
        )
    )


CLASSES: Final = (
    "## Classes",
    "",
    "`classification` and `token-classification` take encoders (BERT, RoBERTa, DistilBERT, ModernBERT, ELECTRA, MPNet, DeBERTa, XLM-R,",
    "CamemBERT) and decoders. The ticks above were made on CPUs: the losses of several ranks are those of one process within 1e-4, those of one",
    "process are transformers' own Trainer's within 1e-6, and a stopped run goes on bit for bit (tests/trainer/test_classes.py).",
    "",
    "- **Their names** come from the rows: the inspection finds them, counts them (`dataset.labels` of its report) and numbers them, by value",
    "  where all are whole numbers, else by name. The published model has the names in `id2label`. At most 1,000 classes; data with a single",
    "  one is refused.",
    "- **The head** is new, its weights drawn by `training.seed`, unless the model has a head with as many outputs: then that one is trained",
    "  on. With `lora` the head is trained whole and lies in the adapter's files.",
    "- **The loss** is the mean cross-entropy over all classes of a global batch, whatever its split. transformers' own Trainer adds up the",
    "  means of the micro-batches for BERT and RoBERTa when it accumulates (5.23: their forward takes the number of classes and ignores it).",
    "- **Words** (`token-classification`): words are joined by single spaces and tokenized as one text, as they will be when the model is used.",
    "  The class stands at a word's first token and nowhere else; a word without a token of its own, or behind the cut, is not learned.",
    "- **Length**: rows are cut at `training.maxLength`, or at what the model has positions for (512 for BERT) if that is less. The plan says",
    "  which (`maxLength`). `training.truncation` says at which end.",
    "- `training.packing: best-fit` and `training.lossOn: all` are refused; a chat template is not needed.",
    "- **Measured** is the share of right classes in each step's own batch, before it is learned from (`batch_accuracy`). That is no test of",
    "  what the model does with other texts: keep rows apart for that (`dataset.split`), whose loss is told.",
    "- Learning rates that suit a small encoder are higher than the default of `full` (1e-5): BERT's authors used 2e-5 to 5e-5",
    "  ([arXiv 1810.04805](https://arxiv.org/abs/1810.04805), A.3). Set `training.learningRate`.",
    "- CPUs are enough for small encoders: `resources: {accelerator: cpu}`.",
    "",
    "Examples: [classification.yaml](../../examples/classification.yaml), [token-classification.yaml](../../examples/token-classification.yaml).",
)


VECTORS: Final = (
    "## Vectors of texts",
    "",
    "`embedding` makes a bi-encoder of an encoder or a decoder: texts that belong together get vectors with a large cosine. The losses are those",
    "of sentence-transformers 6.2; tests/trainer/test_embedding.py compares them with its own trainer's (1e-5).",
    "",
    "- **Pairs and triplets** (`anchor`, `positive`, optional `negative`): every anchor is compared with the positives and negatives of **all",
    "  rows of the global batch**, on all ranks (MultipleNegativesRanking, [arXiv 1705.00652](https://arxiv.org/abs/1705.00652)). So",
    "  `training.globalBatchSize` decides how hard the task is, and the plan's split of it changes nothing: a share that does not fit at",
    "  once passes through the model in parts, first without gradients and then with them (GradCache,",
    "  [arXiv 2101.06983](https://arxiv.org/abs/2101.06983)), one forward pass more. Losses of any split are the same within 1e-5.",
    "  Equal rows of a batch are each other's wrong answers: `dataset.filters.deduplicate` leaves them out.",
    "- **Scored pairs** (`sentence1`, `sentence2`, `score`): the squared difference of cosine and score. Scores above 1 are divided by the",
    "  largest one of the rows, which the inspection finds (`dataset.scores` of its report), such as 5 of STS. Rows whose scores are all",
    "  equal are refused.",
    "- **Pooling** (`training.embedding.pooling`): what the model was made with, where its folder says so; else the tokens' mean for encoders,",
    "  the last token for decoders. A model with another pooling (max, weighted mean) is refused until one of these is named.",
    "- **Measured on held-out rows** (`dataset.split`): Spearman's correlation of cosines and scores (`spearman`); of pairs and triplets how",
    "  often the right text is the closest among those of as many rows as a global batch has (`retrieval_accuracy`). The number of ranks",
    "  changes neither. The base model's are measured before the first step, and stand",
    "  [beside the tuned model's](../explanation/evaluation.md#classes-vectors-scores-and-rewards).",
    "- **Strategies**: one process and DDP; ranks exchange vectors, not rows. Sharded models are refused: parts of a batch pass again inside",
    "  the backward pass, which was not tried with them.",
    "- **Published** as a folder of sentence-transformers; before that it is loaded by `SentenceTransformer(folder)`, whose vectors must be",
    "  those of the trained modules. `1_Pooling/config.json` has the keys that older versions and servers of embeddings read. With",
    "  `output.merge: false` the adapter alone is published, and the card says how its vectors are pooled.",
    "- Methods `full` and `lora`. A pooler that the model brings (BERT) is left as it is: no vector passes through it.",
    "",
    "Example: [embedding.yaml](../../examples/embedding.yaml).",
)


SCORES: Final = (
    "## Scores of pairs",
    "",
    "`reranker` makes a cross-encoder: it reads the two texts of a row together and gives them one number. Its losses are those of",
    "sentence-transformers' own trainer within 1e-5 (tests/trainer/test_reranker.py).",
    "",
    "- **Rows** are scored pairs. A score is learned as a probability (binary cross-entropy); scores above 1 are divided by the largest one of",
    "  the rows, and data with negative ones, or with one score alone, is refused. A text that is compared with several others stands in as",
    "  many rows. Rows of format `pair` or `triplet` are for `embedding`.",
    "- **Length**: both texts with their special tokens within `training.maxLength`, the longer one is cut. The inspection counts them together.",
    "- **Measured on held-out rows** (`dataset.split`): Spearman's correlation (`spearman`), and how often score and probability are on the",
    "  same side of a half (`pair_accuracy`).",
    "- **The head** has one output. It is new, unless the model has one (a cross-encoder that is trained on).",
    "- **Published** as a model of transformers, which `CrossEncoder(folder)` loads; before that its scores are compared with the trained ones.",
    "  It has no chat template, also where the base model has: sentence-transformers 6.2 would write the two texts into it.",
    "- Methods `full` and `lora`; strategies as ticked above.",
    "",
    "Example: [reranker.yaml](../../examples/reranker.yaml).",
)


DISTILLATION: Final = (
    "## A teacher and a student",
    "",
    "`distill` trains a model (the student, `model.uri`) to give the next token the probabilities that a larger one gives it",
    "(`training.distill.teacher`), on the answers that the rows have. Rows, templates, packing, truncation, `training.lossOn` and measures are",
    "those of `sft`.",
    "",
    "- **The loss** of a counted token is `crossEntropyWeight` × the cross-entropy of the row's own token, plus the rest × `temperature`² ×",
    "  KL(teacher ‖ student), both distributions at that temperature ([arXiv 1503.02531](https://arxiv.org/abs/1503.02531)). Without settings",
    "  it is half of each at temperature 1. It is a mean over the counted tokens of a global batch, whatever its split.",
    "  tests/trainer/test_distill.py compares loss and divergence with TRL 1.16's GKD loss on whole logits (1e-4).",
    "- **Measured**: `teacher_kl`, the divergence alone, of each step and of held-out rows. The loss of held-out rows, and so",
    "  `training.earlyStopping`, is of the same two parts.",
    "- **The teacher** is any whole model that writes: `hf://`, a bucket, the result of another job (`ftj://NAME`, which is waited for).",
    "  It is frozen, without dropout, in the precision that is computed in (`training.precision`). A run ends when its files are not those that were",
    "  inspected. `model.cache` holds it, too.",
    "- **One vocabulary**: the inspection compares the two tokenizers word by word and refuses others, with the first token that differs. Rows of",
    "  the output layer beyond the words (Qwen 2.5 pads by size) may differ in number; those that both models have are compared.",
    "- **Memory**: the teacher is whole in every process (2 bytes per parameter in bf16) and stands in the plan with its pass, which is over before",
    "  the student's begins. Logits of either model never exist whole: TRL's ChunkedDivergenceFunction takes tiles of 4,096 × 32,768.",
    "- **Strategies**: one process and DDP. Sharded students are refused; methods `full` and `lora`.",
    "- Before step 1 each model's logits are compared with what its output layer makes of its hidden states: a family that does more to them than",
    "  is known (scales and caps are) ends the run, instead of learning from other numbers.",
    "- **Published** as with `sft`; the card names the teacher, its revision, the digest of its files, its licence, and the job that made it.",
    "- Answers that the teacher writes first are not offered, nor is learning on the student's own: let it write rows and train on them with `sft`.",
    "",
    "Example: [distill-lora.yaml](../../examples/distill-lora.yaml).",
)


def _heads() -> list[str]:
    """Return which models have no head for which objective."""
    rows = (
        (f"`{objective}`", ", ".join(f"`{model_type}`" for model_type in sorted(NO_HEAD[objective])))
        for objective in Objective
        if objective in NO_HEAD
    )
    return [
        "## Models without a head for it",
        "",
        "transformers 5.23 has no class for these model types with the head that the objective needs, or they bring their own code, which is not",
        "tried; the plan refuses them. Encoders learn classes, vectors and scores.",
        "",
        *_table(("objective", "model types"), rows),
        "",
    ]


def _cell(objective: Objective, method: Method, strategy: Strategy) -> str:
    if impossibility(method, strategy, "gpu", objective=objective) is not None:
        return _REFUSED
    return _PROVEN if (method, strategy) in PROVEN[objective] else _ALLOWED


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
