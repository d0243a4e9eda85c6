"""Where each prompt shall lie in the embedding space, before any image is seen.

Prompts that ask for the same thing share a direction: an object, an object of a colour, a number of
objects, an object's part in a relation (being the left one, say). An image can then answer every
prompt by how far it goes along each of these 90 directions, and a prompt's cosine is the sum of its
parts. Learned from contrast alone, small towers find the objects in minutes and the relations
hardly at all.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pocket.rewards.facts import RELATIONS, prompt_table
from pocket.world import OPPOSITE

COMMON = 0.3
BATCH, STEPS, RATE = 96, 1000, 2e-3


def parts(row: int) -> list[tuple[object, float]]:
    """What a prompt asks for, with weights."""
    table = prompt_table()
    (a, b), (c, d), relation = table.shape[:, row], table.color[:, row], table.relation[row]
    if table.count[row]:
        return [(("count", a, table.count[row]), 1.0)]
    if relation >= 0:
        # "b left of a": b plays the left one's part, a the right one's, as in "a right of b".
        opposite = RELATIONS.index(OPPOSITE[RELATIONS[relation]])
        roles = [(("role", b, relation), 1.0), (("role", a, opposite), 1.0)]
        return [*roles, (("object", a), 0.5), (("object", b), 0.5)]
    objects = [(a, c)] + ([(b, d)] if b >= 0 else [])
    return [(("object", s) if color < 0 else ("colored", s, color), 1.0) for s, color in objects]


def meanings(width: int, generator: torch.Generator) -> Float[Tensor, "prompts width"]:
    """A unit vector for each prompt, in a randomly rotated space of `width` dimensions."""
    rows = [dict(parts(row)) for row in range(len(prompt_table().texts))]
    index = {part: i for i, part in enumerate(dict.fromkeys(p for row in rows for p in row))}
    sparse = torch.zeros(len(rows), width)
    for row, wanted in enumerate(rows):
        for part, weight in wanted.items():
            sparse[row, index[part]] = weight
    sparse = F.normalize(sparse, dim=-1) * (1 - COMMON**2) ** 0.5
    sparse[:, len(index)] = COMMON
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    return sparse @ rotation


def learn_to_read(student: nn.Module, goal: Float[Tensor, "prompts width"]) -> float:
    """Train the text tower to put each prompt in its place; returns the worst cosine."""
    texts = prompt_table().texts
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS + 1)
    tags = torch.from_numpy(prompt_table().tag)
    balance = 1 / torch.bincount(tags)[tags]  # two-colour prompts are most of the world's prompts
    student.train()
    for _ in range(STEPS):
        rows = torch.multinomial(balance, BATCH)
        read = student.read([texts[row] for row in rows])
        loss = (1 - (read * goal[rows]).sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    student.eval()
    with torch.no_grad():
        return float((student.read(texts) * goal).sum(-1).min())
