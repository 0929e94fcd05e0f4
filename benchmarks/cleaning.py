"""Precision and recall of the cleaning steps on noise that was planted, and their speed.

    .venv/bin/python -m benchmarks.cleaning [--quick] [--json] [--text FILE]

Clean text is the documentation that comes with Python, or the files that are named, cut into
paragraphs of 60 to 250 words; what repeats another (Jaccard 0.25 of word pairs, computed in full)
is left out of it first. Into it goes noise of every kind. Recall is the share of the planted noise
that the step finds, precision the planted share of what it finds. The peer of the speed is the same
steps of datatrove as they come: spaCy's words, MinHash of five words, 14 buckets of 8.
"""

import argparse
import itertools
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datatrove.pipeline.filters as trove
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from loguru import logger

from benchmarks import cleaning_noise as noise
from benchmarks.cleaning_pii import PERSONAL, decoy
from benchmarks.report import PressureMeter, Result, parser, publish
from everloop import pii
from training import python_docs
from training.cleaning.config import CleanConfig, DuplicatesConfig, LanguageConfig
from training.cleaning.duplicates import Candidates, FindDuplicates, read_duplicates
from training.cleaning.language import LanguageFilter
from training.cleaning.personal_data import MaskPersonalData
from training.cleaning.pipeline import build_steps
from training.cleaning.signatures import Signatures, minhash_config
from training.cleaning.turns import TextOnly
from training.cleaning.words import RegexWords

RECALL, PRECISION = 0.95, 0.98
SEED = 20
_OWN_ADDRESS = re.compile(r"\S@\S+\.\S|\d\.\d+\.\d+\.\d")


def main() -> None:
    """Measure and print."""
    options = _options()
    logger.disable("datatrove")
    meter = PressureMeter()
    chance = random.Random(SEED)
    base = clean_texts(options.text, 400 if options.quick else 1500, chance)
    rounds = 3 if options.quick else 7
    results = [
        *near_duplicates(base, chance),
        *broken_encoding(base, chance),
        *personal_data(base, chance),
        *other_noise(base, chance),
        *speed(base[: 100 if options.quick else 300], rounds),
    ]
    settings = {"clean texts": len(base), "seed": SEED, "rounds of the speed": rounds}
    publish("cleaning", results, options, meter.read(), settings)


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument(
        "--text", type=Path, action="append", help="clean text instead; repeatable"
    )
    return options.parse_args()


def clean_texts(files: Sequence[Path] | None, count: int, chance: random.Random) -> list[str]:
    """Paragraphs of prose, none of which repeats another."""
    if files:
        whole = [path.read_text(encoding="utf-8") for path in files]
    else:
        whole = [item.text for item in python_docs.read() if hasattr(item, "text")]
    pieces = [piece for text in whole for piece in _pieces(text)]
    chance.shuffle(pieces)
    return list(itertools.islice(_distinct(pieces), count))


def _pieces(text: str) -> Iterator[str]:
    held: list[str] = []
    for paragraph in text.split("\n\n"):
        words = " ".join(paragraph.split()).split(" ")
        if len(held) + len(words) > 250:
            held = []
        held += words
        if len(held) >= 60:
            yield " ".join(held)
            held = []


def _distinct(texts: Sequence[str]) -> Iterator[str]:
    """Leave out what shares a quarter of its word pairs with an earlier text; by definition."""
    by_pair: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    kept: list[int] = []
    for text in texts:
        pairs = set(itertools.pairwise(text.lower().split()))
        shared = Counter(at for pair in pairs for at in by_pair[pair])
        if any(n / (len(pairs) + kept[at] - n) >= 0.25 for at, n in shared.items()):
            continue
        for pair in pairs:
            by_pair[pair].append(len(kept))
        kept.append(len(pairs))
        yield text


def near_duplicates(base: Sequence[str], chance: random.Random) -> list[Result]:
    """Plant exact copies, and copies at every edit rate, behind the clean texts."""
    vocabulary = sorted({word for text in base for word in text.split(" ")})
    share = len(base) // 4
    planted: list[tuple[float, str]] = []
    for rate in (0.0, *noise.EDIT_RATES):
        for text in chance.sample(list(base), share):
            planted.append((rate, noise.edit(text, rate, vocabulary, chance)))
    found = _duplicates([*base, *(text for _, text in planted)])
    hits = Counter(rate for at, (rate, _) in enumerate(planted) if len(base) + at in found)
    wrong = sum(index < len(base) for index in found)
    edited = [rate for rate in hits if rate] and sum(hits[rate] for rate in noise.EDIT_RATES)
    return [
        _recall("near-duplicates, 1-20 % edits", edited, share * len(noise.EDIT_RATES)),
        _precision("duplicates", hits.total(), hits.total() + wrong),
        _recall("exact duplicates", hits[0.0], share),
        *(
            _recall(f"  {rate:.0%} of the words edited", hits[rate], share, target=None)
            for rate in noise.EDIT_RATES
        ),
    ]


def _duplicates(texts: Sequence[str]) -> set[int]:
    """Run the stages of `training.cleaning` on texts of one task."""
    config = DuplicatesConfig()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = (Document(text=text, id=str(at)) for at, text in enumerate(texts))
        Signatures(folder / "signatures", config).run(documents)
        minhash = minhash_config(config)
        signatures, pairs = folder / "signatures", folder / "pairs"
        Candidates(str(signatures), str(pairs), config=minhash).run()
        FindDuplicates(signatures, pairs, folder / "found", config).run()
        return set(read_duplicates(folder / "found", 0))


def broken_encoding(base: Sequence[str], chance: random.Random) -> list[Result]:
    """Break half of the texts with characters outside ASCII; a repair must be exact."""
    repair = FTFYFormatter().format
    clean = [noise.accented(text, chance) for text in base]
    half = len(clean) // 2
    broken = [(text, noise.mojibake(text, chance)) for text in clean[:half]]
    pairs = [(text, bad) for text, bad in broken if bad is not None]
    repaired = sum(repair(bad) == text for text, bad in pairs)
    untouched = [*clean[half:], *base]
    wrong = sum(repair(text) != text for text in untouched)
    changed = sum(repair(bad) != bad for _, bad in pairs)
    return [
        _recall("mojibake, repaired exactly", repaired, len(pairs)),
        _precision("mojibake", changed, changed + wrong),
    ]


def personal_data(base: Sequence[str], chance: random.Random) -> list[Result]:
    """Put personal data into a third of the texts, decoys into another; nothing into the rest.

    Texts that hold an address of their own, as seen by a plain pattern, are left out.
    """
    planted, found, wrong = Counter[str](), Counter[str](), 0
    for text in base:
        if _OWN_ADDRESS.search(text):
            continue
        words = text.split(" ")
        place = chance.randrange(len(words))

        def put(value: str, words: Sequence[str] = words, place: int = place) -> str:
            return " ".join([*words[:place], value, *words[place:]])

        match chance.randrange(3):
            case 0:
                kind = chance.choice(sorted(PERSONAL))
                masked, finds = pii.mask(put(PERSONAL[kind](chance)))
                is_right = masked == put(f"<{kind.upper()}>")
                planted[kind] += 1
                found[kind] += is_right
                wrong += finds.total() - is_right
            case 1:
                wrong += pii.mask(put(decoy(chance)))[1].total()
            case _:
                wrong += pii.mask(text)[1].total()
    return [
        _recall("personal data", found.total(), planted.total()),
        _precision("personal data", found.total(), found.total() + wrong),
        *(_recall(f"  {kind}", found[kind], planted[kind], target=None) for kind in PERSONAL),
    ]


def other_noise(base: Sequence[str], chance: random.Random) -> list[Result]:
    """Other languages, text without any, boilerplate: each for the step that is there for it."""
    count = len(base) // 2
    steps = _web_filters()
    cases: tuple[tuple[str, tuple[str, ...], list[str]], ...] = (
        ("other languages", ("language",), [noise.foreign(chance)[1] for _ in range(count)]),
        ("random text", ("quality", "repetition"), [
            noise.random_text(chance) for _ in range(count)]),
        ("boilerplate", ("c4", "fineweb"), [noise.boilerplate(chance) for _ in range(count)]),
    )  # fmt: skip
    results = []
    for name, used, planted in cases:
        blocks = [steps[step] for step in used]
        hits, wrong = (
            sum(_is_dropped(blocks, text) for text in texts) for texts in (planted, base)
        )
        title = f"{name} ({', '.join(used)})"
        results.append(_recall(title, hits, len(planted), target=None))
        results.append(_precision(title, hits, hits + wrong, target=None))
    return results


def _web_filters() -> dict[str, BaseFilter]:
    config = CleanConfig.model_validate(
        {
            "language": LanguageConfig(keep=("en",)),
            "repetition": {"enabled": True},
            "c4": {"enabled": True, "min_sentences": 1, "curly_bracket": False},
            "fineweb": {"enabled": True},
        }
    )
    names: list[str] = []
    steps = build_steps(config, lambda name: names.append(name))
    filters = [step for step in steps if isinstance(step, BaseFilter)]
    return dict(zip(names, filters, strict=True))


def _is_dropped(blocks: Sequence[BaseFilter], text: str) -> bool:
    return any(block.filter(Document(text=text, id="")) is not True for block in blocks)


def speed(texts: Sequence[str], rounds: int) -> list[Result]:
    """Documents per second and core, the same steps of ours and of datatrove in turn."""
    words = RegexWords()
    ours = [FTFYFormatter(), MaskPersonalData(), *_gopher(words)]
    peers = [FTFYFormatter(), PIIFormatter(), *_gopher("en")]
    cases: tuple[tuple[str, Callable[[], None], Callable[[], None]], ...] = (
        ("repair, personal data, Gopher rules", lambda: _run(ours, texts), lambda: _run(
            peers, texts)),
        ("MinHash signatures", lambda: _sign(texts, True), lambda: _sign(texts, False)),
    )  # fmt: skip
    results = []
    for name, mine, theirs in cases:
        mine(), theirs()  # load what they load
        pairs = [(_rate(mine, texts), _rate(theirs, texts)) for _ in range(rounds)]
        values, others = zip(*pairs, strict=True)
        results.append(Result.of_rounds(name, "documents/s", values, others, target=0.95))
    identify = LanguageFilter(LanguageConfig())
    rates = [_rate(lambda: _run([identify], texts), texts) for _ in range(rounds)]
    results.append(Result.of_values("language", "documents/s", rates))
    return results


def _gopher(language: RegexWords | str) -> list[PipelineStep]:
    return [
        TextOnly(trove.GopherQualityFilter(language=language)),
        TextOnly(trove.GopherRepetitionFilter(language=language)),
    ]


def _run(steps: Sequence[PipelineStep], texts: Sequence[str]) -> None:
    # A space in front, so that datatrove's cache of split texts holds nothing of the other side.
    stream = iter([Document(text=f" {text}", id=str(at)) for at, text in enumerate(texts)])
    for step in steps:
        stream = step(stream)
    for _ in stream:
        pass


def _sign(texts: Sequence[str], is_ours: bool) -> None:
    documents = iter([Document(text=text, id=str(at)) for at, text in enumerate(texts)])
    with tempfile.TemporaryDirectory() as folder:
        if is_ours:
            Signatures(Path(folder), DuplicatesConfig()).run(documents)
        else:
            MinhashDedupSignature(folder).run(documents)


def _rate(run: Callable[[], None], texts: Sequence[str]) -> float:
    started = time.process_time()
    run()
    return len(texts) / (time.process_time() - started)


def _recall(name: str, found: int, planted: int, target: float | None = RECALL) -> Result:
    return _share(f"{name}: recall", found, planted, target)


def _precision(name: str, right: int, found: int, target: float | None = PRECISION) -> Result:
    return _share(f"{name}: precision", right, found, target)


def _share(name: str, part: int, whole: int, target: float | None) -> Result:
    value = part / whole if whole else 0.0
    ok = None if target is None else value >= target
    return Result(name=name, value=value, unit=f"of {whole:,}", target=target, ok=ok)


if __name__ == "__main__":
    main()
