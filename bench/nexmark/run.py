#!/usr/bin/env python3
"""The Nexmark queries, each in the stream and as one interval: are the answers the same, and how fast is each?

  bench/nexmark/run.py [--events N] [--out FILE.md] [q0 q1 …]

Each query is a project of its own, made from tables.sql and queries/qN.sql. A query that is refused is listed with its message. The rows
are those of the tables that the query reads; seconds are the life of the process, from exec to exit.
TIDEMILL_BIN names the binary; without it the release build of CARGO_TARGET_DIR or of this clone is taken.
"""
import argparse, collections, json, os, re, shutil, subprocess, tempfile, time

HERE = os.path.dirname(os.path.realpath(__file__))
EVENTS = 1_000_000
SHARES = {"person": 1, "auction": 3, "bid": 46}


def binary():
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "..", "target"))
    return os.environ.get("TIDEMILL_BIN", os.path.join(target, "release", "tidemill"))


def project(query, events, folder):
    os.makedirs(f"{folder}/pipelines")
    with open(f"{folder}/tidemill.toml", "w") as f:
        f.write("[project]\nname = 'nexmark'\n")
    with open(f"{HERE}/tables.sql") as f:
        tables = f.read()
    with open(f"{folder}/pipelines/tables.sql", "w") as f:
        f.write(tables.replace(f"rows = '{EVENTS}'", f"rows = '{events}'"))
    shutil.copy(f"{HERE}/queries/{query}.sql", f"{folder}/pipelines/{query}.sql")
    return folder


def tidemill(folder, *words):
    began = time.monotonic()
    done = subprocess.run([binary(), *words], cwd=folder, capture_output=True, text=True)
    took = time.monotonic() - began
    return took, done.stdout, None if done.returncode == 0 else message(done.stderr)


def message(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\b[A-Z]\d{3}\b|error", line)), lines[0] if lines else "no message")


def multiset(lines):
    """Rows without their order; floats to nine digits, for sums of them depend on the order of rows."""
    def plain(value):
        return f"{value:.9g}" if isinstance(value, float) else str(value)
    rows = (json.loads(line) for line in lines if line.strip())
    hidden = {"provisional"}
    return collections.Counter(tuple((k, plain(v)) for k, v in sorted(row.items()) if k not in hidden) for row in rows)


def files(folder):
    lines = []
    for root, _, names in os.walk(f"{folder}/out"):
        for name in names:
            with open(os.path.join(root, name)) as f:
                lines.extend(f)
    return multiset(lines)


def run(query, events):
    """Answers (rows read, stream seconds, interval seconds, verdict)."""
    with open(f"{HERE}/queries/{query}.sql") as f:
        sql = f.read()
    read = sum(events * share // 50 for table, share in SHARES.items() if re.search(rf"(FROM |JOIN |TUMBLE\(|HOP\(|SESSION\(){table}\b", sql))
    view = re.search(r"CREATE MATERIALIZED VIEW result AS\n(.*);", sql, re.S)
    with tempfile.TemporaryDirectory(prefix="nexmark-") as scratch:
        one, other = project(query, events, f"{scratch}/stream"), project(query, events, f"{scratch}/interval")
        stream, _, refused = tidemill(one, "run", query)
        if view:
            # A view is kept by streams; its query over the tables is what it must show.
            interval, answer, wrong = tidemill(other, "query", "--format", "ndjson", view.group(1))
            expected = None if wrong else multiset(answer.splitlines())
        else:
            interval, _, wrong = tidemill(other, "run", query, "--interval", "2026-01-01/1d")
            expected = None if wrong else files(other)
        if refused or wrong:
            said = [f"stream: {refused}"] if refused else []
            said += [f"interval: {wrong}"] if wrong else []
            return read, None if refused else stream, None if wrong else interval, "; ".join(said)
        if view:
            _, answer, wrong = tidemill(one, "query", "--format", "ndjson", "SELECT * FROM result")
            found = multiset(answer.splitlines()) if not wrong else collections.Counter()
        else:
            found = files(one)
        if found == expected:
            return read, stream, interval, f"same, {sum(found.values()):,} rows"
        missing, extra = sum((expected - found).values()), sum((found - expected).values())
        return read, stream, interval, f"DIFFERENT: {missing:,} rows missing in the stream, {extra:,} too many"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--out", help="write the table here too")
    parser.add_argument("queries", nargs="*", default=[])
    asked = parser.parse_args()
    every = sorted((name[:-4] for name in os.listdir(f"{HERE}/queries")), key=lambda name: int(name[1:]))
    lines = ["| query | rows read | stream rows/s | interval rows/s | stream = interval? |", "|---|---:|---:|---:|---|"]
    print("\n".join(lines), flush=True)
    for query in asked.queries or every:
        read, stream, interval, verdict = run(query, asked.events)
        speed = lambda seconds: "-" if seconds is None else f"{read / seconds:,.0f}"
        lines.append(f"| {query} | {read:,} | {speed(stream)} | {speed(interval)} | {verdict.replace('|', '/')} |")
        print(lines[-1], flush=True)
    if asked.out:
        with open(asked.out, "w") as f:
            f.write("\n".join(lines) + "\n")


main()
