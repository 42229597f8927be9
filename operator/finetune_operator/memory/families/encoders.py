"""Encoders: BERT and its kind, norms behind the sums (post-norm), and MPNet. Sentence-transformers are these, with `Head.NONE`.

The head decides which tensors exist besides the layers: AutoModel has a pooler where the class has one, AutoModelForMaskedLM a transform and a
decoder that shares the embedding, AutoModelForSequenceClassification a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune_operator.memory.architecture import Architecture, Head
from finetune_operator.memory.blocks import Block, NormKind, NormPlacement, Positions, Tensor, TensorClass
from finetune_operator.memory.config_reader import ConfigReader, Shape, read_shape
from finetune_operator.memory.layout import block_norms, embedding, linear, norm, plain_mlp, separate_attention

HEAD = TensorClass.HEAD


@dataclass(frozen=True)
class Names:
    """What a family calls its linear modules, and which extra ones its heads have."""

    attention: tuple[str, str, str] = ("query", "key", "value")
    attention_output: str = "dense"
    mlp: tuple[str, str] = ("dense", "dense")
    transform: str = "dense"
    """Of the masked-LM head; the vectors that go into the decoder."""
    pooler_when_bare: bool = True
    pooler_when_classifying: bool = True
    decoder_biases: int = 2
    """Biases of the masked-LM decoder: the module's own, and one beside it which is the same tensor if the embedding is shared."""
    classifier: tuple[str, ...] = ("classifier",)
    """Modules of the classification head; all but the last are hidden × hidden."""


BERT = Names()
ROBERTA = Names(pooler_when_classifying=False, classifier=("dense", "out_proj"))
DISTILBERT = Names(
    attention=("q_lin", "k_lin", "v_lin"),
    attention_output="out_lin",
    mlp=("lin1", "lin2"),
    transform="vocab_transform",
    pooler_when_bare=False,
    pooler_when_classifying=False,
    decoder_biases=1,
    classifier=("pre_classifier", "classifier"),
)
MPNET = replace(ROBERTA, attention=("q", "k", "v"), attention_output="o")
ELECTRA = replace(ROBERTA, pooler_when_bare=False, decoder_biases=1)


def bert(config: ConfigReader) -> Architecture:
    """BERT."""
    shape = read_shape(config, tied=True, positions=512)
    return encoder(config, shape, BERT, _bert_embeddings(config, shape, shape.hidden))


def roberta(config: ConfigReader) -> Architecture:
    """RoBERTa, XLM-R, CamemBERT: BERT's layers with another classification head."""
    shape = read_shape(config, tied=True, positions=512)
    return encoder(config, shape, ROBERTA, _bert_embeddings(config, shape, shape.hidden))


def distilbert(config: ConfigReader) -> Architecture:
    """DistilBERT: no token types, no pooler."""
    shape = read_shape(config, tied=True, positions=512)
    tables = (embedding("position_embeddings", shape.max_positions, shape.hidden),)
    return encoder(config, shape, DISTILBERT, tables, dropout="dropout", attention_dropout="attention_dropout")


def electra(config: ConfigReader) -> Architecture:
    """ELECTRA: embeddings of their own width, projected to the layers'; the masked-LM head (generator) works on that width."""
    shape = read_shape(config, tied=True, positions=512)
    width = config.whole("embedding_size", default=shape.hidden)
    projection = (
        linear("embeddings_project", TensorClass.EMBEDDING, width, shape.hidden, bias=True)
        if width != shape.hidden
        else ()
    )
    return encoder(
        config, shape, ELECTRA, (*_bert_embeddings(config, shape, width), *projection), embedding_width=width
    )


def mpnet(config: ConfigReader) -> Architecture:
    """MPNet: a learned bias per head and bucket of distances, which transformers adds in eager attention."""
    shape = read_shape(config, tied=True, positions=512)
    tables = (
        embedding("position_embeddings", shape.max_positions, shape.hidden),
        embedding("relative_attention_bias", config.whole("relative_attention_num_buckets", default=32), shape.heads),
    )
    found = encoder(config, shape, MPNET, tables)
    blocks = tuple(
        replace(block, attention=replace(block.attention, positions=Positions.BUCKETS, sdpa=False, flash=False))
        for block in found.blocks
    )
    return replace(found, blocks=blocks)


def _bert_embeddings(config: ConfigReader, shape: Shape, width: int) -> tuple[Tensor, ...]:
    return (
        embedding("position_embeddings", shape.max_positions, width),
        embedding("token_type_embeddings", config.whole("type_vocab_size", default=2), width),
    )


def encoder(
    config: ConfigReader,
    shape: Shape,
    names: Names,
    tables: tuple[Tensor, ...],
    *,
    embedding_width: int = 0,
    dropout: str = "hidden_dropout_prob",
    attention_dropout: str = "attention_probs_dropout_prob",
) -> Architecture:
    """Return a post-norm encoder; `tables` are the embeddings beside the words', the last two arguments the config's names of dropouts."""
    rate = config.number(dropout, 0.1)
    attention, tensors = separate_attention(
        shape, inputs=names.attention, output=names.attention_output, bias=True, output_bias=True
    )
    attention = replace(
        attention,
        positions=Positions.ABSOLUTE,
        causal=False,
        float32_softmax=False,
        dropout=config.number(attention_dropout, 0.1),
    )
    mlp, mlp_tensors = plain_mlp(
        shape.hidden,
        shape.intermediate,
        names.mlp,
        activation=config.text("hidden_act", config.text("activation", "gelu")),
    )
    block = Block(
        shape.layers,
        attention,
        mlp,
        (*tensors, *mlp_tensors, *block_norms(shape, 2, bias=True)),
        norm=NormKind.LAYER,
        placement=NormPlacement.SUM,
        residual_dropout=rate,
    )
    width = embedding_width or shape.hidden
    outer = (
        embedding("word_embeddings", shape.vocabulary, width),
        *tables,
        *norm("embedding_norm", width, bias=True),
    )
    return with_head(config, shape, (block,), names, outer, width, dropout=rate)


def with_head(
    config: ConfigReader,
    shape: Shape,
    blocks: tuple[Block, ...],
    names: Names,
    outer: tuple[Tensor, ...],
    width: int,
    *,
    dropout: float,
) -> Architecture:
    """Return the encoder with what stands behind its last layer; `width` is that of the embedding and so of the masked-LM decoder."""
    masked = config.head is Head.MASKED_LM
    return Architecture(
        model_type=config.model_type,
        hidden=shape.hidden,
        vocabulary=shape.vocabulary,
        tied_embeddings=shape.tied and masked,
        blocks=blocks,
        outer=(*outer, *_head(config, shape, names, width)),
        max_positions=shape.max_positions,
        head=config.head,
        labels=config.head_labels,
        final_norm=False,
        embedding_norm=True,
        embedding_dropout=dropout,
    )


def _head(config: ConfigReader, shape: Shape, names: Names, width: int) -> tuple[Tensor, ...]:
    pooler = linear("dense", HEAD, shape.hidden, shape.hidden, bias=True)
    if config.head is Head.MASKED_LM:
        decoder = () if shape.tied else (Tensor("decoder", HEAD, (shape.vocabulary, width)),)
        return (
            *linear(names.transform, HEAD, shape.hidden, width, bias=True),
            *norm("transform_norm", width, bias=True),
            *decoder,
            Tensor("decoder", HEAD, (shape.vocabulary,), copies=1 if shape.tied else names.decoder_biases),
        )
    if config.head is Head.SEQUENCE_CLASSIFICATION:
        *inner, last = names.classifier
        # PEFT's all-linear leaves out a module called classifier, and takes the one called out_proj.
        final = (
            (Tensor(last, HEAD, (config.labels, shape.hidden)), Tensor(last, HEAD, (config.labels,)))
            if last == "classifier"
            else linear(last, HEAD, shape.hidden, config.labels, bias=True)
        )
        dense = (tensor for name in inner for tensor in linear(name, HEAD, shape.hidden, shape.hidden, bias=True))
        task_head = (replace(tensor, task_head=True) for tensor in (*dense, *final))
        return (*(pooler if names.pooler_when_classifying else ()), *task_head)
    if config.head is Head.TOKEN_CLASSIFICATION:
        return classifier(config, shape)
    return pooler if names.pooler_when_bare else ()


def classifier(config: ConfigReader, shape: Shape) -> tuple[Tensor, ...]:
    """Return the linear module behind every token; PEFT's all-linear leaves out a module of its name."""
    shapes = ((config.labels, shape.hidden), (config.labels,))
    return tuple(Tensor("classifier", HEAD, each, task_head=True) for each in shapes)
