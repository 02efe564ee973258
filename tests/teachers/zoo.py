"""Tiny text models of many architectures, with random weights, in the folders that `save_pretrained` makes."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [f"word{number}" for number in range(40)]
SPECIAL = ["<pad>", "<unk>", "<cls>", "<sep>"]
ROWS = 64
"""Of every model's embedding: more than there are words, as in many published models."""


def names(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


SMALL: dict[str, int] = {
    "vocab_size": ROWS,
    **dict.fromkeys(names("hidden_size d_model n_embd dim emb_dim embedding_size word_embed_proj_dim"), 32),
    **dict.fromkeys(names("intermediate_size d_inner d_ff ffn_dim n_inner hidden_dim dff ffn_hidden_size"), 48),
    **dict.fromkeys(names("encoder_ffn_dim decoder_ffn_dim"), 48),
    **dict.fromkeys(names("num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers"), 2),
    **dict.fromkeys(names("num_encoder_layers num_decoder_layers"), 2),
    **dict.fromkeys(names("num_attention_heads num_heads n_head n_heads encoder_attention_heads"), 2),
    **dict.fromkeys(names("decoder_attention_heads num_key_value_heads num_encoder_attention_heads"), 2),
    **dict.fromkeys(names("num_decoder_attention_heads"), 2),
    **dict.fromkeys(names("head_dim d_kv d_head attention_head_size kv_channels"), 16),
    **dict.fromkeys(names("max_position_embeddings n_positions n_ctx max_seq_len context_length"), 130),
}
"""Values for the names that configurations use for the same few things."""

OWN: dict[str, dict[str, Any]] = {
    "t5": {"decoder_start_token_id": 0},
    "albert": {"embedding_size": 16},
    "mobilebert": {"intra_bottleneck_size": 32, "num_feedforward_networks": 1},
    "funnel": {"block_sizes": [1, 1, 1], "num_decoder_layers": 1, "architectures": ["FunnelModel"]},
    "xlm": {"n_langs": 1},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "longformer": {"attention_window": 8},
    "mra": {"num_block_per_row": 2},
    "led": {"max_encoder_position_embeddings": 130, "max_decoder_position_embeddings": 130, "attention_window": 8},
    "phi3": {"pad_token_id": 0},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8, "n_head": 4},
    "stablelm": {},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 16},
    "mamba": {"state_size": 4},
    "bigbird_pegasus": {"block_size": 4},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "longt5": {"local_radius": 4},
    "switch_transformers": {"num_experts": 2, "expert_capacity": 1024},
    "prophetnet": {"num_encoder_layers": 2, "num_decoder_layers": 1},
    "convbert": {"conv_kernel_size": 3},
    "modernbert": {"local_attention": 16},
    "gemma2": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "canine": {"vocab_size": 1000},
    "roformer": {"embedding_size": 32},
    "rwkv": {"attention_hidden_size": 32},
}

ENCODERS = names("""
    albert bert bert-generation big_bird camembert clip_text_model convbert data2vec-text deberta deberta-v2
    distilbert electra ernie esm eurobert flaubert fnet funnel ibert longformer luke megatron-bert mobilebert
    modernbert mpnet mra nomic_bert rembert roberta roberta-prelayernorm roc_bert roformer splinter squeezebert
    xlm xlm-roberta xlm-roberta-xl xlnet xmod yoso
""")
DECODERS = names("""
    biogpt bloom codegen ctrl falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo gpt_neox gptj llama mamba
    mistral mpt olmo openai-gpt opt phi qwen3 rwkv smollm3 stablelm starcoder2 xglm
""")
BOTH = names("""
    bart bigbird_pegasus blenderbot led longt5 m2m_100 marian mbart mt5 mvp pegasus plbart prophetnet
    switch_transformers t5 umt5
""")


def write_tokenizer(folder: Path, **options: Any) -> Any:
    """A tokenizer of forty words that adds `<cls>` and `<sep>`, saved in a folder."""
    numbers = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    library = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(
        single="<cls>:0 $A:0 <sep>:0", special_tokens=[("<cls>", 2), ("<sep>", 3)]
    )
    given = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>", **options}
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=library, **given)
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_config(kind: str, **changes: Any) -> Any:
    """A configuration of a few thousand weights."""
    default = hf.AutoConfig.for_model(kind)
    known = default.to_dict()
    values = {name: value for name, value in SMALL.items() if name in known} | OWN.get(kind, {}) | changes
    values |= {name: 0 for name in ("pad_token_id",) if name in known and name not in values}
    values |= {name: 3 for name in ("eos_token_id", "bos_token_id", "sep_token_id", "cls_token_id") if name in known}
    return hf.AutoConfig.for_model(kind, **values)


def write_model(folder: Path, kind: str, spread: float = 4.0, **changes: Any) -> Any:
    """A model whose features differ from text to text as those of trained ones do, and its tokenizer, in a folder."""
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(tiny_config(kind, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(spread)
    model.save_pretrained(folder)
    write_tokenizer(folder, model_max_length=96)
    return model
