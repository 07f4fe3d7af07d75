"""Label contrast against other libraries' losses: time forward and backward, and peak memory.

Each contestant has a process and a torch of its own, so each is first divided by the same plain work on that
torch: one product of all pairs and its log-sum-exp. 65 536 embeddings are ours alone, in a fresh process.
"""

from harness import Child, Options, Race, Report, at_least, at_most, contest, figure, read_options, run_race

WIDTH = 128
OURS, DENSE = "lclsc", "plain dense form"
PEERS = ("pytorch-metric-learning SupConLoss", "lightly NTXentLoss")
LARGE = 65_536
GIB = 2.0**30


def race_of(size: int, rounds: int, options: Options) -> Race:
    contestants = (
        Child(OURS, "peers/our_loss.py"),
        Child(DENSE, "peers/our_loss.py", arguments={"form": "dense"}),
        Child(PEERS[0], "peers/metric_learning_loss.py", env="torch"),
        Child(PEERS[1], "peers/lightly_loss.py", env="torchvision"),
    )
    with contest(*contestants) as all_of_them:
        return run_race(all_of_them, {"size": size, "width": WIDTH}, rounds=rounds, options=options)


def main() -> None:
    options = read_options(__doc__)
    report = Report("loss", options)
    rounds = options.pick({64: 41, 512: 21, 4096: 7, 16384: 3}, quick={64: 5, 512: 3})
    for size, count in rounds.items():
        race = race_of(size, count, options)
        report.add(race)
        for peer in PEERS:
            name, times = f"times as fast as {peer}, N = {size}", race.ratio(peer, OURS, per="plain")
            report.claim(at_least(name, times, 3, "x") if size >= 4096 else figure(name, times, "x"))
            core_times = race.ratio(peer, OURS, "core_seconds")
            report.claim(figure(f"{name}, in seconds of core time and not scaled", core_times, "x"))
        name, times = f"times as fast as the {DENSE}, N = {size}", race.ratio(DENSE, OURS)
        report.claim(at_least(name, times, 1, "x") if size == 64 else figure(name, times, "x"))
    large = options.pick(LARGE, quick=LARGE // 8)
    with contest(Child(OURS, "peers/our_loss.py", arguments={"memory_only": True})) as alone:
        race = run_race(alone, {"size": large, "width": WIDTH}, rounds=1, warm_ups=0)
    report.add(race)
    beyond = race.median(OURS, "peak_bytes_beyond_inputs")
    assert beyond is not None, "ours is measured or the run has failed"
    report.claim(at_most(f"peak memory beyond the inputs, N = {large}", beyond / GIB, 1, "GiB"))
    report.claim(figure(f"forward and backward, N = {large}", race.median(OURS), "s"))
    report.finish()


if __name__ == "__main__":
    main()
