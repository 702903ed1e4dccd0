"""The network's inputs by what they tell, for reports and for watching them."""

from dataclasses import dataclass

from models.features import FeatureSpec


@dataclass(frozen=True, slots=True)
class Group:
    """Columns of the encoder's and the decoder's inputs that tell the same."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...] = ()


def groups(spec: FeatureSpec) -> dict[str, Group]:
    """Every input in one group, by a name for readers; follows `features.encoder_inputs` and `targets.rows`."""
    levels, profiles = len(spec.half_lives), 2 * len(spec.periods)
    scale = 1 + levels
    seasonal = scale + 3
    streams = seasonal + profiles
    flags = streams + 4 * len(spec.streams)
    place = profiles + 3
    found = {
        "newest demand": Group((0, flags, flags + 1)),
        "recent demand": Group(tuple(range(1, scale))),
        "level of sales": Group((scale,)),
        "silence and age": Group((scale + 1, scale + 2)),
        "seasonal profile": Group(tuple(range(seasonal, streams)), tuple(range(profiles))),
        **{_readable(name): Group(tuple(range(streams + 4 * i, streams + 4 * i + 4))) for i, name in enumerate(spec.streams)},
        "calendar": Group(tuple(range(flags + 2, spec.n_encoder_inputs)), tuple(range(place, spec.n_decoder_inputs))),
        "place in the horizon": Group((), tuple(range(profiles, place))),
    }
    return {name: group for name, group in found.items() if group.encoder or group.decoder}


def _readable(stream: str) -> str:
    return stream.removeprefix("hist_")
