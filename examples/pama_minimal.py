"""PAMA in one file: several rewards, one policy, one loss. Needs torch and transformers alone.

One step: answer prompts, score every answer by every objective, compare the answers to one prompt with one another,
keep what is better than them (Noon), let the least gain decide (Theorem 1), and take PPO's clipped step.

Source: He & Maghsudi, "Pareto Multi-Objective Alignment for Language Models", ECML PKDD 2025, arXiv 2508.07768.
Legend: N objectives, B answers, T tokens of the longest answer.
`python examples/pama_minimal.py` runs it on a small random model; `step` takes any causal model of transformers, and
any rewards (ids, mask) → (B,).
"""

import copy

import torch
from torch import Tensor


def log_probs(model, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor, temperature=1.0) -> Tensor:
    """log π(token | what came before), (B,T), of answers padded on the right to prompts padded on the left."""
    whole = torch.cat([prompt_mask, mask], 1).long()
    positions = (whole.cumsum(1) - 1).clamp(min=0)  # padding on the left moves no token
    logits = model(torch.cat([prompt_ids, ids], 1), attention_mask=whole, position_ids=positions).logits
    predicting = logits[:, prompt_ids.shape[1] - 1 : -1] / temperature  # each token is predicted one place before it
    return predicting.log_softmax(-1).gather(-1, ids[:, :, None])[:, :, 0]


def leave_one_out(scores: Tensor, group: int) -> Tensor:
    """Aⁱ = Rⁱ − mean of the other answers to the same prompt, (N,B) → (N,B). Answers to one prompt are neighbours."""
    groups = scores.unflatten(1, (-1, group))
    return ((groups - groups.mean(-1, keepdim=True)) * group / (group - 1)).flatten(1)


def combine(advantages: Tensor) -> Tensor:
    """Theorem 1 under Noon: the mixture of max(Aⁱ, 0) of least magnitude is their least, (N,B,T) → (B,T)."""
    return advantages.clamp(min=0).amin(0)


def combined_advantages(
    scores: Tensor, old: Tensor, reference: Tensor, mask: Tensor, group: int, beta: float
) -> Tensor:
    """Rewards (N,B) less β times each answer's KL from the reference → one advantage per token, (B,T)."""
    kl = ((old - reference) * mask).sum(1)
    advantages = leave_one_out(scores - beta * kl, group)
    return combine(advantages[:, :, None] * mask)


def surrogate(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """PPO: −mean over tokens of min(u A, clip(u, 1 − ε, 1 + ε) A), u = π / π_old."""
    ratio = torch.where(mask, new - old, 0).exp()
    least = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -(least * mask).sum() / mask.sum()


@torch.no_grad()
def answer(model, prompt_ids: Tensor, prompt_mask: Tensor, length: int, eos: int, temperature=1.0):
    """Sampled token by token: ids (B,T), and a mask that is True up to the end-of-text token and on it."""
    ids, mask = prompt_ids[:, :0], prompt_mask[:, :0].bool()
    going = torch.ones(len(prompt_ids), dtype=torch.bool)
    for _ in range(length):
        whole = torch.cat([prompt_mask, mask], 1).long()
        positions = (whole.cumsum(1) - 1).clamp(min=0)
        logits = model(torch.cat([prompt_ids, ids], 1), attention_mask=whole, position_ids=positions).logits[:, -1]
        token = torch.multinomial((logits / temperature).softmax(-1), 1)
        ids, mask = torch.cat([ids, token], 1), torch.cat([mask, going[:, None]], 1)
        going = going & (token[:, 0] != eos)
    return ids, mask


def step(model, reference, optimizer, prompts, rewards, *, eos, group=4, length=8, beta=0.05, clip=0.2, epochs=2):
    """One step of PAMA on prompts (ids, mask); returns the mean of every reward."""
    prompt_ids, prompt_mask = (part.repeat_interleave(group, 0) for part in prompts)
    ids, mask = answer(model, prompt_ids, prompt_mask, length, eos)
    scores = torch.stack([reward(ids, mask) for reward in rewards])
    with torch.no_grad():
        old = log_probs(model, prompt_ids, prompt_mask, ids, mask)
        anchor = log_probs(reference, prompt_ids, prompt_mask, ids, mask)
    advantages = combined_advantages(scores, old, anchor, mask, group, beta)
    for _ in range(epochs):
        loss = surrogate(log_probs(model, prompt_ids, prompt_mask, ids, mask), old, advantages, mask, clip)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return scores.mean(1)


def main(steps: int = 40) -> list[list[float]]:
    """Two rewards at odds: say word 5 often, and be short. Returns the mean rewards of every step."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=12, n_embd=32, n_layer=2, n_head=2, n_positions=32)).eval()
    reference = copy.deepcopy(model).requires_grad_(False)
    rewards = [lambda ids, mask: ((ids == 5) & mask).sum(1).float(), lambda ids, mask: -mask.sum(1).float() / 4]
    prompts = (torch.randint(2, 12, (8, 3)), torch.ones(8, 3, dtype=torch.long))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return [step(model, reference, optimizer, prompts, rewards, eos=1).tolist() for _ in range(steps)]


if __name__ == "__main__":
    for number, (word, short) in enumerate(main(), start=1):
        print(f"step {number:2}: word {word:.2f}, short {short:.2f}")
