"""Forward pass over groups whose responses share a prompt: the prompt, its image included, is computed once.

Prompt tokens attend among themselves; a response attends to its prompt's keys and values and to itself. That equals the
pass over N whole documents (prompt + response) and costs (P + N R) instead of N (P + R) tokens. What is read at the end
are the states before response tokens: the last layer computes no others.

Shapes: G prompts, B responses of all groups, T tokens (first all prompts', then all responses'), R response tokens,
H heads, K key-value heads, d head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from open4ov.model import Config, Encoded, Pack, Qwen3VL, VisionFeatures, attention, continuations
from open4ov.model.continuations import Continuations
from open4ov.training_pass import Pass


@dataclass(frozen=True)
class SharedPrefix:
    """Groups laid out for one pass; see `build`."""

    pack: Pack  # the tokens [T], without pixels
    vision: VisionFeatures | None  # of the prompts' images, in order
    prompt_tokens: int  # tokens of all prompts
    layout: Continuations
    read: Tensor  # [n] the tokens, in 0..T-1, that stand before a response token, each once
    before: Tensor  # [R] which of them stands before each response token
    response: Tensor  # [R] the response (0..B-1) of each response token

    @staticmethod
    def build(
        prompts: Sequence[tuple[Encoded, VisionFeatures | None]], responses: Sequence[Sequence[Sequence[int]]]
    ) -> SharedPrefix:
        """prompts: encoded with `generate=True`, and their images' features; responses: token ids, group by group.

        Raises ValueError for an empty response, a prompt without responses, and different numbers of both.
        """
        if len(prompts) != len(responses) or not all(responses):
            raise ValueError("every prompt needs its own, non-empty list of responses")
        flat = [torch.tensor(tokens, dtype=torch.long) for group in responses for tokens in group]
        if any(len(tokens) == 0 for tokens in flat):
            raise ValueError("a response without tokens cannot be trained on")
        documents = [document for document, _ in prompts]
        prompt_of = torch.tensor([g for g, group in enumerate(responses) for _ in group])
        prompt_lengths = torch.tensor([len(document) for document in documents])
        lengths = torch.tensor([len(tokens) for tokens in flat])
        total = int(prompt_lengths.sum())
        starts = total + lengths.cumsum(0) - lengths
        response = torch.arange(len(flat)).repeat_interleave(lengths)
        before = torch.arange(total - 1, total + int(lengths.sum()) - 1)
        before[starts - total] = prompt_lengths.cumsum(0)[prompt_of] - 1
        next_position = torch.tensor([document.next_position for document in documents])[prompt_of]
        places = next_position[response] + torch.arange(len(response)) - (starts - total)[response]
        features = [vision for _, vision in prompts if vision is not None]
        read, place = torch.unique(before, return_inverse=True)
        tokens = torch.cat([*(document.input_ids for document in documents), *flat])
        joined = Pack(
            input_ids=tokens,
            positions=torch.cat([*(document.positions for document in documents), places.expand(3, -1)], dim=1),
            cu_seqlens=F.pad(torch.cat([prompt_lengths, lengths]).cumsum(0), (1, 0)),
            targets=torch.zeros_like(tokens, dtype=torch.bool),
            pixels=documents[0].pixels[:0],
            grids=torch.cat([document.grids for document in documents]),
            names=(*(document.name for document in documents), *[""] * len(flat)),
            images=(*(len(document.grids) for document in documents), *[0] * len(flat)),
        )
        return SharedPrefix(
            pack=joined,
            vision=VisionFeatures.cat(features) if features else None,
            prompt_tokens=total,
            layout=Continuations.of(prompt_lengths, lengths, prompt_of),
            read=read,
            before=place,
            response=response,
        )

    def to(self, device: torch.device | str) -> SharedPrefix:
        """The same on another device; the images' features go there when the model reads them."""
        if self.read.device == torch.device(device):
            return self
        moved = {name: getattr(self, name).to(device) for name in ("pack", "layout", "read", "before", "response")}
        return replace(self, **moved)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`model.Memory`: prompts among themselves, responses over their prompt and themselves."""
        cut = self.prompt_tokens
        of_prompts = attention.attend(q[:cut], k[:cut], v[:cut], self.layout.prompts, causal=True)
        of_responses = continuations.attend(q[cut:], k[cut:], v[cut:], (k[:cut], v[:cut]), self.layout)
        return torch.cat([of_prompts, of_responses])


def scoring(
    groups: SharedPrefix,
    config: Config,
    temperature: float = 1.0,
    weight: float = 1.0,
    objective: Callable[[Tensor, Tensor], Tensor] | None = None,
    pixels: Tensor | None = None,
) -> Pass:
    """The pass over groups that scores every response token, group by group, response by response: `groups.response`
    says which token is whose. `pixels`: patches of the pictures, which then pass the tower with it."""
    # a response may hold a sampled placeholder token: it stands for no picture
    ids = groups.pack.input_ids[: groups.prompt_tokens]
    places = ((ids == config.image_token_id) | (ids == config.video_token_id)).nonzero()[:, 0]
    pack = replace(groups.pack, places=places)
    if pixels is not None:
        pack = replace(pack, pixels=pixels)
    return Pass(
        pack,
        groups.vision,
        groups,
        rows=groups.read[groups.before],
        ids=groups.pack.input_ids[groups.prompt_tokens :],
        weight=weight,
        temperature=temperature,
        objective=objective,
    )


def log_probs(model: Qwen3VL, groups: SharedPrefix, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p of every response token [R] at `temperature`, and the entropy [R] (nats, no gradient) of what it was drawn
    from. Group by group, response by response: `groups.response` says which token is whose.

    Raises UserError when a prompt's placeholders and visual tokens differ in number."""
    groups = groups.to(model.device)
    one = scoring(groups, model.config, temperature)
    hidden = model.hidden_states(one.pack, one.vision, one.memory, rows=groups.read)
    return model.score(hidden.index_select(0, groups.before), one.ids, temperature)
