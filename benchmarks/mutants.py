"""Measure the tests: change one line of the code at a time, and count how many changes the tests notice.

    python benchmarks/mutants.py                      # all, about a minute each
    python benchmarks/mutants.py --only losses.py     # those of files whose names contain this
    python benchmarks/mutants.py --check              # only check that every changed line still exists

Works on a temporary copy of the files that git lists. Exit code: 0 if every change is noticed, 1 if some are not.
The mutants are written by hand: each is a plausible mistake in a line that decides results. (mutmut and cosmic-ray
change every operator in a file, which would take days with tests that run networks.)
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 900  # seconds, after which a mutant counts as noticed


class Mutant(NamedTuple):
    """``old`` occurs once in ``file`` and is replaced by ``new``; then the tests, separated by spaces, run."""

    file: str
    tests: str
    old: str
    new: str


# (file, tests) → line → changed line.
TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("model/network.py", "test_inference.py"): {
        "others = masks.sum(dim=1, keepdim=True) - masks": "others = masks.sum(dim=1, keepdim=True)",
        "frames[:, t - 1], f16[:, t - 1], masks)": "frames[:, t], f16[:, t - 1], masks)",
        "memory.add(key[:, t - 1], value)": "memory.add(key[:, t], value)",
        "masks = torch.softmax(logits, dim=1)[:, 1:]": "masks = first_masks",
        "soft_aggregate(torch.sigmoid(mask_logits) * valid)": "soft_aggregate(torch.sigmoid(mask_logits))",
    },
    ("adaptation.py", "test_adaptation.py"): {
        "parameter.lerp_(loaded, KEEP)": "parameter.lerp_(loaded, 1)",
        "self._memory = self._make()": "self._memory = getattr(self, '_memory', None) or self._make()",
        "clip.masks[:, -1:], clip.valid": "clip.masks[:, :1], clip.valid",
        "masks[first].ids if masks[last].complete else masks[first].ids & masks[last].ids": "masks[first].ids",
        "copy.deepcopy(network).requires_grad_()": "network.requires_grad_()",
    },
    ("model/network.py", "test_reference.py"): {
        "return (image - self.mean) / self.std": "return image - self.mean",
    },
    ("model/tensor.py", "test_label_map.py tests/test_inference.py"): {
        "-height % multiple, -width % multiple": "-height % multiple, -height % multiple",
        "x[..., top : height - bottom, left : width - right]": "x[..., bottom : height - top, left : width - right]",
    },
    ("model/tensor.py", "test_reference.py"): {
        "torch.prod(1 - probs, dim=1, keepdim=True)": "1 - probs.amax(dim=1, keepdim=True)",
        "clamp(1e-7, 1 - 1e-7)": "clamp(1e-4, 1 - 1e-4)",
    },
    ("model/blocks.py", "test_reference.py"): {
        "self.conv1(*[torch.relu(x) for x in inputs])": "self.conv1(*inputs)",
        "self.conv2(F.relu(out, inplace=True))": "self.conv2(out)",
        "self.mlp(x.mean(dim=(2, 3))) +": "2 *",
        "torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)]": (
            "torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)]"
        ),
    },
    ("model/decoder.py", "test_reference.py"): {
        "add_(F.relu(self.fusion_1(mask), inplace=True))": "add_(self.fusion_1(mask))",
        "mask = mask + F.relu(self.fusion_2(boundary), inplace=True)": "pass",
        'scale_factor=4, mode="bilinear", align_corners=False': 'scale_factor=4, mode="bilinear", align_corners=True',
    },
    ("model/spectral.py", "test_spectral.py"): {
        'high if band == "high" else 1 - high': 'high if band == "low" else 1 - high',
        "(2 * sigma**2)": "sigma**2",
        "(for_real + mirrored) / 2, (for_real - mirrored) / 2": "(for_real + mirrored) / 2, (mirrored - for_real) / 2",
        "filtered[..., 0, :] += self.constant(width)": "pass",
    },
    ("model/optimized.py", "test_optimized.py"): {
        "_convolve(even + odd, k[1], self.bias)": "_convolve(even + odd, k[1])",
    },
    ("model/losses.py", "test_losses.py"): {
        "if iteration > end_warm:": "if iteration > start_warm:",
        "(end_warm - iteration)": "(iteration - start_warm)",
        "response > 0.1": "response < -0.1",
        "masked_fill(absent[:, None, :, None, None], -torch.inf)": "masked_fill(absent[:, None, :, None, None], 0)",
        "valid.sum(1, keepdim=True).clamp(min=1)": "valid.shape[1]",
        "return 1 - (2 * overlap + 1)": "return 1 - (2 * overlap)",
    },
    ("attention.py", "test_memory.py"): {
        "-k.square().sum(dim=2, keepdim=True)": "-k.square().mean(dim=2, keepdim=True)",
        "/ math.sqrt(key.shape[1])": "/ key.shape[1]",
    },
    ("inference_memory_bank.py", "test_memory.py"): {
        "slot = len(self._entries) if temporary else": "slot =",
        "_Entry(frame, permanent or not self._entries, ": "_Entry(frame, permanent, ",
        "slot = min(evictable, key": "slot = max(evictable, key",
        "not temporary and self._entries[slot].permanent:": "permanent:",
        "key.softmax(dim=2) if self.norm": "key.softmax(dim=1) if self.norm",
        "query.float().softmax(dim=1) if": "query.float().softmax(dim=2) if",
        "(context - self._mean) / (self._count + 1)": "(context - self._mean) / (self._count + 2)",
        "self._temporary = context if temporary else None": "self._temporary = context",
        "sum(contexts) / len(contexts)": "sum(contexts)",
    },
    ("inference_core.py", "test_inference.py tests/test_local.py"): {
        "abs(frame - self._last_memory) >= self.mem_every": "abs(frame - self._last_memory) > self.mem_every",
        "prob[:, 1:].masked_fill(mask > 0, 0)": "prob[:, 1:]",
        "decided, not is_memory)": "decided, False)",
        "if is_memory or self.include_last:": "if is_memory:",
        "if new := [i for i in ids if i not in self.object_ids]:": "if new := ids:",
        "if not (needed or is_memory or self.include_last or self.local):": "if not needed:",
        "is_memory or self.include_last or self.local)": "is_memory or self.include_last)",
        "self._places = None if mask is None else": "self._places = None if mask is not None else",
    },
    ("labels.py", "test_label_map.py tests/test_local.py tests/test_evaluation.py"): {
        "channel > best": "channel >= best",
        'mode="bilinear", align_corners=False': 'mode="nearest"',
        "best = torch.maximum(best, channel)": "best = channel",
        "F.max_pool2d(was, 3, 1, 1)": "was",
        " & (2 * reached.sum((1, 2)) >= now.sum((1, 2)))[:, None, None]": "",
    },
    ("evaluation.py", "test_records.py"): {
        '| {"mem_every": mem_every, "include_last": include_last': '| {"include_last": include_last',
        '"local": local, ': "",
        'settings["precision"] = str(precision).removeprefix("torch.")': "pass",
    },
    ("util/device.py", "test_eval_program.py"): {
        "torch.float32 if torch.float32 in found else found[0]": "found[0]",
    },
    ("predictor.py", "test_predictor.py"): {
        "network.optimized or (fast_precision": "(fast_precision",
    },
    ("results/records.py", "test_records.py"): {
        "stat.st_size, stat.st_mtime_ns": "stat.st_size",
        '"enlarged": enlarged, ': "",
        "path.unlink(missing_ok=True)": "pass",
        'set(self._different(made_with)) - {"fps"}': "False",
    },
    ("datasets/video.py", "sessions/test_objects.py"): {
        "(given > 0) | held[result]": "given > 0",
    },
    ("datasets/images.py", "test_video.py tests/sessions/test_propagation.py"): {
        "if 255 in ids and len(ids) > 1:": "if False:",
    },
    ("datasets/video_file.py", "test_video.py"): {
        "hidden += packet.is_discard or not started": "pass",
    },
    ("datasets/video.py", "test_video.py"): {
        "[small] > 1)": "[small] > 0)",
        ".mean(0) + 0.5) * size": ".mean(0)) * size",
        "target = min(short_side, most * short)": "target = min(short_side, short)",
        "most = max(1, min(": "most = max(0, min(",
    },
    ("scoring/metrics.py", "test_scores.py"): {
        "values > 0.5": "values >= 0.5",
        "np.count_nonzero(a & b) / np.count_nonzero(a | b)": "np.count_nonzero(a & b) / np.count_nonzero(b)",
        "x**2 + y**2 <= radius**2": "x**2 + y**2 < radius**2",
        "first, last = values[: bounds[1] + 1]": "first, last = values[: bounds[1]]",
        "int(np.ceil(TOLERANCE": "int(np.round(TOLERANCE",
        "return float(in_truth == in_prediction)": "return 0.0",
    },
    ("scoring/folders.py", "test_scores.py"): {
        "others[:-1]": "others",
        "0 if all_frames else first[object_id] + 1": "0 if all_frames else first[object_id]",
    },
    ("datasets/warps.py", "test_warps.py"): {
        "/ 2 - 0.5 - (left, top)": "/ 2 - (left, top)",
        "cv2.INTER_CUBIC) > 127": "cv2.INTER_CUBIC) > 0",
        "_sample(ids, warp, cv2.INTER_NEAREST)": "_sample(ids, warp, cv2.INTER_LINEAR)",
    },
    ("datasets/sampling.py", "test_sampling.py"): {
        "chosen[::-1] if rng.random() < 0.5": "chosen[::-1] if rng.random() < 0.0",
        "[-1] // divisor": "[-1]",
        "gap, limit))": "gap, last_start + i))",
        "if area[1:255].any():": "if False:",
    },
    ("datasets/loader.py", "test_loader.py"): {
        "position / stop": "0.0",
        "default_rng((seed, 1, epoch))": "default_rng((seed, 1, 0))",
        "(seed, 2, position)": "(seed, 2, place)",
    },
    ("datasets/mixture.py", "test_mixture.py"): {
        "cutouts), repeat=5))": "cutouts)))",
    },
    ("model/weights.py", "test_checkpoint.py"): {
        "if type(found) is not int or found != FORMAT:": "if type(found) is not int:",
        "state = averaged": "pass",
    },
    ("model/weights.py", "test_reference.py"): {
        "state[mean] - state.pop(bias)": "state[mean] + state.pop(bias)",
    },
    ("training/config.py", "training/test_config.py"): {
        "sum(step <= iteration for": "sum(step < iteration for",
        "min(1.0, (iteration + 1) / max(self.warm_up, 1))": "1.0",
        "(1 + math.cos(math.pi * iteration / self.iterations)) / 2": "math.cos(math.pi * iteration / self.iterations)",
    },
    ("training/checkpoint.py", "training/test_resume.py -k average"): {
        "min(self.ema, (1 + self.updates)": "max(self.ema, (1 + self.updates)",
        "averaged.lerp_(current, 1 - decay)": "averaged.lerp_(current, decay)",
    },
    ("training/checkpoint.py", "training/test_resume.py::test_generators_go_on"): {
        'torch.set_rng_state(rng["cpu"])': "pass",
    },
    ("training/checkpoint.py", "training/test_resume.py::test_resume_is_exact"): {
        'train["iteration"], train["position"], train["best"]': 'train["iteration"], train["iteration"], train["best"]',
    },
    ("training/checkpoint.py", "training/test_loop.py::test_processes_add_up_to_one"): {
        "average([p.grad for p in self.network.parameters() if p.grad is not None])": "pass",
    },
    ("training/run.py", "training/test_resume.py::test_second_stop_signal_does_not_wait"): {
        "        if received and number != hang_up:\n            raise": "        if False:\n            raise",
    },
    ("training/loop.py", "training/test_loop.py::test_processes_add_up_to_one"): {
        ".sum() / recipe.accumulate": ".sum()",
    },
    ("training/loop.py", "training/test_loop.py::test_settings_reach_the_loss"): {
        "hard_fraction(iteration - 1, ": "hard_fraction(0, ",
        "recipe.boundary_weight, recipe.dice_weight": "0.05, recipe.dice_weight",
    },
}


def mutants(only: list[str]) -> list[Mutant]:
    """Those of the files whose names contain any of ``only``."""
    found = []
    for (file, tests), changes in TABLE.items():
        if any(name in file for name in only):
            found += [Mutant(file, f"tests/{tests}", old, new) for old, new in changes.items()]
    return found


def stale(mutant: Mutant) -> bool:
    """Whether the code has changed, so that the mutant has to be written anew."""
    return (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) != 1


def copy_tree(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)


def run_tests(tree: Path, tests: str) -> None:
    """In a process of its own: exit with pytest's code. Prints nothing."""
    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "benchmarks"))]
    sys.dont_write_bytecode = True
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    import pytest

    sys.exit(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests.split()]))


def is_noticed(tree: Path, mutant: Mutant) -> bool:
    """Whether the tests fail, or run into the time limit, on the mutant."""
    path = tree / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return not tests_pass(tree, mutant.tests)
    finally:
        path.write_text(original, encoding="utf-8")


def tests_pass(tree: Path, tests: str) -> bool:
    # Forked, so that PyTorch is imported once for all mutants; nothing of the project is.
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(tree, tests))
    process.start()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="files whose names contain this")
    parser.add_argument("--check", action="store_true", help="only check that every changed line still exists")
    args = parser.parse_args(arguments)
    chosen = mutants(args.only)
    outdated = [mutant for mutant in chosen if stale(mutant)]
    for mutant in outdated:
        print(f"outdated: {mutant.file} does not hold this line once: {mutant.old!r}")
    if args.check or outdated or not chosen:
        print(f"{len(chosen)} mutants, {len(outdated)} outdated")
        return int(bool(outdated) or not chosen)

    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # before the import of PyTorch
    import av  # noqa: F401
    import torchvision  # type: ignore[import-untyped]  # noqa: F401  # it has no stubs

    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        for number, mutant in enumerate(chosen, 1):
            start = time.perf_counter()
            noticed = is_noticed(tree, mutant)
            survivors += not noticed
            verdict = "killed" if noticed else "SURVIVED"
            seconds = time.perf_counter() - start
            change = f"{mutant.old!r} → {mutant.new!r}"
            print(f"{number}/{len(chosen)} {verdict} {seconds:.0f} s  {mutant.file}: {change}", flush=True)
    killed = len(chosen) - survivors
    print(f"{killed} of {len(chosen)} killed ({killed / len(chosen):.0%})")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
