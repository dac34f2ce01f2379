"""Floating-point operations of reading, by formula; no torch.

For a decoder-only model with N body parameters (all but embeddings and head), n_layer layers and
attention width d_attn, a forward pass over n_ctx tokens costs per token (Kaplan et al. 2020,
"Scaling Laws for Neural Language Models", equation 2.2)

    C_forward = 2 N + 2 n_layer n_ctx d_attn,

where the second term is the causal attention's: token i forms i+1 products with keys and as many
with values, 4 (i+1) d_attn operations a layer, which sum to 2 n_layer d_attn L^2 over a row of L
tokens. Added here, because short answers over small models make them matter:

* the vocabulary projection, 2 V D for each target token (it is computed nowhere else);
* for an encoder, which is not causal, twice the attention term: 4 n_layer d_attn L^2;
* for cross-attention, 4 n_layer d_attn L T, its key and value projections counted on encoder tokens.

Norms, activations, softmax and embedding look-ups are left out, as in Kaplan et al. Padding is not
counted: these are the operations that the result needs. The backward pass costs twice the forward.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class TokenCounts:
    """What was read: sums over rows, padding left out. Add them with ``+``.

    Attributes:
        rows: reader rows (question, passage).
        tokens: tokens the model processed: prompt and target (encoder and decoder for seq2seq).
        target_tokens: tokens scored, end tokens included.
        input_tokens: tokens of the causal row, or of the encoder.
        decoder_tokens: tokens of a seq2seq decoder; 0 for decoder-only.
        input_squares, decoder_squares: sums of L^2 and of T^2.
        cross: sum of L T; 0 for decoder-only.
    """

    rows: int = 0
    tokens: int = 0
    target_tokens: int = 0
    input_tokens: int = 0
    decoder_tokens: int = 0
    input_squares: int = 0
    decoder_squares: int = 0
    cross: int = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class ReaderSizes:
    """What the formula needs to know of a reader.

    Attributes:
        body: non-embedding parameters that a decoder (or decoder-only) token passes through.
        encoder_body: those that an encoder token passes through, cross-attention keys and values included.
        layers, encoder_layers: depth of the (decoder-only) decoder and of the encoder.
        attention_width: d_attn, heads x head width; of the decoder where the two differ.
        width: D, the width that the vocabulary projection reads.
        vocab: V.
    """

    body: int
    layers: int
    attention_width: int
    width: int
    vocab: int
    encoder_body: int = 0
    encoder_layers: int = 0


def forward_flops(counts: TokenCounts, sizes: ReaderSizes) -> float:
    """Operations of one forward pass over ``counts`` (a multiply-add is two)."""
    head = 2.0 * sizes.vocab * sizes.width * counts.target_tokens
    if sizes.encoder_layers == 0:
        attention = 2.0 * sizes.layers * sizes.attention_width * counts.input_squares
        return 2.0 * sizes.body * counts.input_tokens + attention + head
    encoder = 2.0 * sizes.encoder_body * counts.input_tokens
    encoder += 4.0 * sizes.encoder_layers * sizes.attention_width * counts.input_squares
    decoder = 2.0 * sizes.body * counts.decoder_tokens
    decoder += 2.0 * sizes.layers * sizes.attention_width * (counts.decoder_squares + 2 * counts.cross)
    return encoder + decoder + head


def training_flops(counts: TokenCounts, sizes: ReaderSizes) -> float:
    """Operations of a training step over ``counts``: forward, and a backward pass of twice that."""
    return 3.0 * forward_flops(counts, sizes)
