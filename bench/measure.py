#!/usr/bin/env python3
"""What commits cost, how long a row takes to be seen, and whether speed and bytes stay as they were: one JSON line each.

  bench/measure.py checkpoints [--rows N] [--rounds N]   what a commit each second costs, of the same run with one commit
  bench/measure.py latency [--seconds N]                 arrival to visible in a view, at half of the rate that is too much
  bench/measure.py linear [--rows N]                     the last tenth of a long run beside the first full one

The rows are the generator's orders. Everything is made in a temporary folder and removed.
TIDEMILL_BIN names the binary; without it the release build of CARGO_TARGET_DIR or of this clone is taken.
"""
import argparse, json, os, resource, signal, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.realpath(__file__))
COLUMNS = """  order_id BIGINT, customer_id BIGINT, product_id BIGINT, amount DECIMAL(14, 4), currency VARCHAR, region VARCHAR,
  created_at TIMESTAMP, WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds'"""
# What is kept up: windows that close, a view of windows, and a running total for each customer.
STATEMENTS = """
CREATE TABLE per_minute (window_start TIMESTAMP, region VARCHAR, currency VARCHAR, n BIGINT, total DECIMAL(38, 4))
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO per_minute
SELECT window_start, region, currency, count(*) AS n, sum(amount) AS total
FROM TUMBLE(orders, created_at, INTERVAL '1 minute') GROUP BY region, currency, window_start, window_end;

CREATE MATERIALIZED VIEW revenue WITH (retention = '10 minutes') AS
SELECT region, window_start, sum(amount) AS revenue, count(*) AS n
FROM TUMBLE(orders, created_at, INTERVAL '1 minute') GROUP BY region, window_start, window_end;

CREATE MATERIALIZED VIEW customers AS
SELECT customer_id, count(*) AS n, sum(amount) AS spent FROM orders GROUP BY customer_id;
"""


def binary():
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "target"))
    return os.environ.get("TIDEMILL_BIN", os.path.join(target, "release", "tidemill"))


def generator(rows, more=""):
    return f"connector = 'generator', rows = '{rows}', disorder = '9 seconds'{more}"


def project(folder, source, checkpoint, statements=STATEMENTS):
    os.makedirs(f"{folder}/pipelines")
    with open(f"{folder}/tidemill.toml", "w") as f:
        f.write("[project]\nname = 'measure'\n")
    with open(f"{folder}/pipelines/p.sql", "w") as f:
        f.write(f"CREATE PIPELINE p WITH (trigger = 'continuous', checkpoint = '{checkpoint}');\n")
        f.write(f"CREATE TABLE orders (\n{COLUMNS}\n) WITH ({source});\n{statements}")
    return folder


def run(folder):
    """The report of a run, with the seconds of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([binary(), "run", "p", "--format", "json"], cwd=folder, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(done.args)} failed:\n{done.stderr}")
    report = json.loads(done.stdout)
    report["cpu"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return report


def checkpoints(scratch, asked):
    """The same files by the same trigger; only how often it commits differs. The rounds alternate, so that a drift of the machine meets both."""
    rows = asked.rows or 20_000_000
    copy = "\nCREATE TABLE files (order_id BIGINT, customer_id BIGINT, product_id BIGINT, amount DECIMAL(14, 4), currency VARCHAR,\n" \
        "  region VARCHAR, created_at TIMESTAMP) WITH (connector = 'files', path = '../in', format = 'json');\n" \
        "INSERT INTO files SELECT order_id, customer_id, product_id, amount, currency, region, created_at FROM orders;\n"
    run(project(f"{scratch}/fill", generator(rows), "1 minute", copy))
    files = "connector = 'files', path = '../in', format = 'json', bounded = 'true'"
    reports = {"1 hour": [], "1 second": []}
    for number in range(asked.rounds):
        for checkpoint, of in reports.items():
            of.append(run(project(f"{scratch}/{number}-{len(checkpoint)}", files, checkpoint)))
    middle = lambda checkpoint, what: statistics.median(report[what] for report in reports[checkpoint])
    share = lambda what: round(100 * (middle("1 second", what) / middle("1 hour", what) - 1), 1)
    return {
        "rows": rows,
        "rounds": asked.rounds,
        "epochs": middle("1 second", "epochs"),
        "rows_per_second": {"one commit": round(rows / middle("1 hour", "seconds")), "each second": round(rows / middle("1 second", "seconds"))},
        "cost_percent": {"wall": share("seconds"), "cpu": share("cpu")},
    }


def latency(scratch, asked):
    """First as fast as it goes, then rows that come into being at half of that speed."""
    view = STATEMENTS[STATEMENTS.index("CREATE MATERIALIZED VIEW revenue"):STATEMENTS.index("CREATE MATERIALIZED VIEW customers")]
    full = run(project(f"{scratch}/full", generator(asked.rows or 20_000_000), "10 ms", view))
    rate = round(full["rows_read"] / full["seconds"] / 2)
    paced = generator(rate * asked.seconds, f", rows_per_second = '{rate}'")
    half = run(project(f"{scratch}/half", paced, "10 ms", view))
    return {
        "full_rows_per_second": 2 * rate,
        "rows_per_second": round(half["rows_read"] / half["seconds"]),
        "seconds": round(half["seconds"], 1),
        "epochs": half["epochs"],
        "latency_ms": {name: round(value, 1) for name, value in half["latency_ms"].items()},
    }


def linear(scratch, asked):
    """A commit each half second; rows and bytes written between, as the manifests and the files of the state tell them."""
    rows = asked.rows or 60_000_000
    # Endless, so that time goes on and windows close; it is stopped when there were enough.
    folder = project(f"{scratch}/long", "connector = 'generator', disorder = '9 seconds'", "500 ms")
    running = subprocess.Popen([binary(), "run", "p", "--format", "json", "-q"], cwd=folder, stdout=subprocess.DEVNULL)
    seen, points = {}, []
    while running.poll() is None:
        time.sleep(0.1)
        for root, _, names in os.walk(f"{folder}/.tidemill"):
            for name in names:
                path = os.path.join(root, name)
                try:
                    seen[path] = max(os.path.getsize(path), seen.get(path, 0))
                except OSError:
                    pass  # removed meanwhile, as no manifest names it any more
        if not points or time.monotonic() - points[-1][0] > 0.5:
            told = subprocess.run([binary(), "status", "p", "--format", "json"], cwd=folder, capture_output=True, text=True)
            counters = (json.loads(told.stdout or "[{}]")[0].get("counters") or {}) if told.returncode == 0 else {}
            points.append((time.monotonic(), counters.get("rows_read", 0), sum(seen.values())))
            if points[-1][1] >= rows:
                running.send_signal(signal.SIGINT)
                running.wait()
    if running.returncode != 0:
        sys.exit("the run failed")
    tenth = rows / 10

    def between(low, high):
        within = [point for point in points if low <= point[1] <= high]
        if len(within) < 3:
            sys.exit("the run was too short to look at a tenth of it; give more --rows")
        (t0, rows0, bytes0), (t1, rows1, bytes1) = within[0], within[-1]
        return {"rows_per_second": round((rows1 - rows0) / (t1 - t0)), "state_bytes_per_row": round((bytes1 - bytes0) / (rows1 - rows0), 3)}

    # The first tenth holds the start: the process, and customers that are new.
    return {"rows": rows, "second_tenth": between(tenth, 2 * tenth), "last_tenth": between(9 * tenth, 10 * tenth)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["checkpoints", "latency", "linear"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemill-measure-") as scratch:
        print(json.dumps({"measured": asked.what, **globals()[asked.what](scratch, asked)}))


main()
