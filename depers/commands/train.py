"""Train a YOLOv5 detector: a loop of our own over the package's parts, spread over workers by Ray Train.

Reads dataset folders (data.yaml, images/, labels/). Writes below OUT

weights/best.pt, weights/last.pt    ordinary YOLOv5 checkpoints
results.csv, tensorboard/           a row per epoch
report.html, train_batch.jpg        curves, confusion matrix, labelled and predicted images
state/last.pt                       everything to go on with: the same command after an interruption does
"""

from depers import storage
from depers.datasets.data_yaml import read_dataset
from depers.errors import UserError
from depers.runtime import units
from depers.runtime.cluster import choose_device
from depers.training.options import Options, absolute


def run(options: Options) -> int:
    """Trains on the Ray cluster, a line per epoch. Raises UserError before the first epoch for what is wrong."""
    import ray

    from depers.training.ray_train import fit

    shown_out, options = options.out, absolute(options)
    storage.check(options.out, "OUT")
    for uri, _ in options.datasets():
        read_dataset(uri)
    units.claim(options.out, options.decisive(), note="options.json", empty=False)
    device = choose_device(options.device, options.workers)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if options.workers > cpus:
        raise UserError(f"--workers must be at most the cluster's {cpus} CPUs, but got {options.workers}")
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    each = max(1, min(cpus // options.workers, largest))
    if not storage.exists(storage.join(options.out, "report.html")):  # what a run writes last
        fit(options, options.datasets(), device == "cuda", each)
    rows = results(options.out)
    best = max(rows, key=lambda row: 0.1 * row["map50"] + 0.9 * row["map50_95"])
    print(
        f"best epoch {best['epoch']:.0f} of {len(rows)}: mAP@.5 {best['map50']:.3f},"
        f" mAP@.5:.95 {best['map50_95']:.3f}; {storage.join(shown_out, 'weights', 'best.pt')};"
        f" report {storage.join(shown_out, 'report.html')}",
        flush=True,
    )
    return 0


def results(out: str) -> list[dict[str, float]]:
    """The rows of OUT/results.csv, one per epoch so far."""
    path = storage.join(out, "results.csv")
    if not storage.exists(path):
        return []
    header, *lines = storage.read_bytes(path).decode().splitlines()
    return [dict(zip(header.split(","), map(float, line.split(",")), strict=True)) for line in lines]
