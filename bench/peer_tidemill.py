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


def s2_sql(ctx):
    return f"""
CREATE PIPELINE s2 WITH (trigger = 'once');

CREATE TABLE orders ({COLUMNS}, created_at TIMESTAMP, WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds')
WITH (connector = 'files', path = '{ctx.data}/jsonl/part-*.jsonl', format = 'json', bounded = 'true');

CREATE TABLE per_minute (window_start TIMESTAMP, window_end TIMESTAMP, region VARCHAR, currency VARCHAR, n BIGINT, s DOUBLE)
WITH (connector = 'files', path = '{ctx.out}/res', format = 'json');

CREATE VIEW paid AS SELECT region, upper(currency) AS currency, amount, created_at FROM orders WHERE amount > 0;

INSERT INTO per_minute
SELECT window_start, window_end, region, currency, count(*) AS n, sum(amount) AS s
FROM TUMBLE(paid, created_at, INTERVAL '1 minute')
GROUP BY region, currency, window_start, window_end;
"""


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


main("tidemill", {
    "T0": task("t0", t0_sql, "one row through"),
    "S1": task("s1", s1_sql, "exactly-once files, process start included"),
    "S2": task("s2", s2_sql, "exactly-once files, process start included; no row of a listed file is late"),
})
