"""The main job on a handful of real faces and real weights, where VEILBENCH_DATA names some."""

import json
from pathlib import Path

from support import ROOT, Cli

from bench.datasets.lfw import image_name, parse_pairs


def test_a_learned_attack_opens_the_unprotected_system_on_real_faces(data: Path, tmp_path: Path, cli: Cli) -> None:
    pairs = parse_pairs((data / "lfw/pairs.txt").read_text(), "pairs.txt")
    genuine = [p for p in pairs if p.genuine and p.fold == 0][:6]
    impostor = [p for p in pairs if not p.genuine and p.fold == 0][:6]
    lines = [f"{p.left[0]}\t{p.left[1]}\t{p.right[1]}" for p in genuine]
    lines += [f"{p.left[0]}\t{p.left[1]}\t{p.right[0]}\t{p.right[1]}" for p in impostor]
    (tmp_path / "pairs.txt").write_text("1\t6\n" + "\n".join(lines) + "\n")
    judged = {side[0] for p in (*genuine, *impostor) for side in (p.left, p.right)}
    public = [d.name for d in sorted((data / "lfw/images").iterdir()) if d.name not in judged][:110]
    for person in public:
        (tmp_path / "tree" / person).mkdir(parents=True)
        (tmp_path / "tree" / person / f"{person}_0001.jpg").symlink_to(
            data / "lfw/images" / person / f"{person}_0001.jpg"
        )
    for pair in (*genuine, *impostor):
        for image in (pair.left, pair.right):
            link = tmp_path / "tree" / f"{image_name(image)}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(data / "lfw/images" / f"{image_name(image)}.jpg")
    folder = tmp_path / "out"
    cli(
        *("run", "--quiet", "--config", str(ROOT / "bench.toml"), "--profile", "lfw", "--output", str(folder)),
        *("--set", f'run.store="{tmp_path / "store"}"', "--set", f'run.cache="{tmp_path / "cache"}"'),
        *(
            "--set",
            f'datasets.lfw.images="{tmp_path / "tree"}"',
            "--set",
            f'datasets.lfw.pairs="{tmp_path / "pairs.txt"}"',
        ),
        *("--set", "run.replay=true"),
        *("--set", 'run.defenses=["unprotected","laplace"]', "--set", "attacks.transrec.training.epochs=60"),
        *("--set", 'run.attacks=["mean_face","transrec"]', "--set", "metrics.bootstrap=100"),
        VEILBENCH_DATA=str(data),
    )
    board = {row["defense"]: row for row in json.loads(cli("leaderboard", str(folder), "--format", "json").stdout)}
    open_, noisy = board["unprotected"], board["laplace"]
    assert open_["images_without_a_face"] == 0
    assert open_["acc"] >= 0.9
    assert open_["worst_ssim"] > 0.85 > open_["blind_ssim"] + 0.3
    assert open_["worst_ssim"] > noisy["worst_ssim"] > noisy["blind_ssim"]
    assert open_["worst_lpips"] < noisy["worst_lpips"]
    assert open_["worst_cosine"] > 0.8
    assert open_["srra1"] == 1
    assert open_["noise_rms"] == 0
    assert 0.27 < noisy["noise_rms"] < 0.30
