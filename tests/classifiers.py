"""Tiny reward models in the folders' forms that the Hub has: the tokenizers, labels and padding of those that conf/ names."""

import json
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification

import tiny
from pama_exp.world import FactWorld


def _texts() -> list[str]:
    return [f"Human: {prompt} Assistant: {response}" for prompt, response in FactWorld(1).demonstrations(60, 1)]


@cache
def _word_pieces() -> str:
    """vocab.txt, as DistilBERT's repositories have it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        _texts(), trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False)
    )
    return "\n".join(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__))


@cache
def _byte_pairs() -> Tokenizer:
    """GPT-2's alphabet with merges of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def distilbert(folder: Path, positions: int = 512) -> Path:
    """Two labels, word pieces in vocab.txt, a text between [CLS] and [SEP]: as lvwerra/distilbert-imdb."""
    folder.mkdir(parents=True)
    words = _word_pieces()
    (folder / "vocab.txt").write_text(words)
    _write(folder, {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True, "model_max_length": positions})
    size = {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2, "max_position_embeddings": positions}
    labels = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
    return _save(folder, "distilbert", vocab_size=len(words.splitlines()), pad_token_id=0, **size, **labels)


def gpt2(folder: Path, positions: int = 1024) -> Path:
    """One label, byte pairs in vocab.json and merges.txt, no padding token: as Ray2333/gpt2-large-helpful-reward_model."""
    folder.mkdir(parents=True)
    words = _byte_pairs()
    words.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "<|endoftext|>": len(vocabulary)}))
    end = "<|endoftext|>"
    _write(folder, {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end})
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions}
    end_id = {"bos_token_id": len(vocabulary), "eos_token_id": len(vocabulary), "pad_token_id": len(vocabulary)}
    return _save(folder, "gpt2", vocab_size=len(vocabulary) + 1, num_labels=1, **size, **end_id)


def _write(folder: Path, settings: dict) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _save(folder: Path, kind: str, **settings) -> Path:
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **settings))
    tiny.sharpen(model, seed=3).save_pretrained(folder)
    return folder
