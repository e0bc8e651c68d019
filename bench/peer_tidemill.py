"""Tidemill behind the harness of the peer kit: a project of one pipeline for each task, run by the release binary.

wall_s is the life of the process, from exec to exit: reading the project, planning, running, committing. Nothing is warm.
PEER env: TIDEMILL_BIN, the binary; without it the release build of CARGO_TARGET_DIR or of the project is taken.
TIDEMILL_MEMORY, what operators of B1, B2 and B3 may hold before they spill, as '1 GiB'.
"""
import json, os, shutil, subprocess, sys, time
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


def stored_orders(ctx):
    return f"""
CREATE TABLE orders ({COLUMNS}, created_at TIMESTAMP, WATERMARK FOR created_at AS created_at)
WITH (connector = 'files', path = '{ctx.data}/parquet/*.parquet', format = 'parquet', bounded = 'true');
"""


def b1_sql(ctx):
    return f"""
CREATE PIPELINE b1 WITH (trigger = 'once');
{stored_orders(ctx)}
CREATE TABLE customers (customer_id BIGINT, customer_tier VARCHAR)
WITH (connector = 'files', path = '{ctx.data}/dim_customer.parquet', format = 'parquet', bounded = 'true');

CREATE TABLE products (product_id BIGINT, product_category VARCHAR)
WITH (connector = 'files', path = '{ctx.data}/dim_product.parquet', format = 'parquet', bounded = 'true');

CREATE TABLE daily (
  day TIMESTAMP, region VARCHAR, category VARCHAR, tier VARCHAR,
  revenue DOUBLE, orders BIGINT, customers BIGINT, mean DOUBLE, p95 DOUBLE
) WITH (connector = 'files', path = '{ctx.out}/res', format = 'parquet', compression = 'snappy');

INSERT INTO daily
SELECT o.window_start AS day, o.region, p.product_category AS category, c.customer_tier AS tier,
       sum(o.amount) AS revenue, count(o.order_id) AS orders, count(DISTINCT o.customer_id) AS customers,
       avg(o.amount) AS mean, percentile_cont(o.amount, 0.95) AS p95
FROM TUMBLE(orders, created_at, INTERVAL '1 day') o
LEFT JOIN customers c ON o.customer_id = c.customer_id
LEFT JOIN products p ON o.product_id = p.product_id
GROUP BY o.window_start, o.region, p.product_category, c.customer_tier
ORDER BY revenue DESC;
"""


def b2_sql(ctx):
    return f"""
CREATE PIPELINE b2 WITH (trigger = 'once');
{stored_orders(ctx)}
CREATE TABLE uniques ({COLUMNS}, created_at TIMESTAMP)
WITH (connector = 'files', path = '{ctx.out}/res', format = 'parquet', compression = 'snappy');

INSERT INTO uniques
SELECT order_id, customer_id, product_id, round(amount, 2) AS amount, upper(currency) AS currency, region, created_at
FROM (
  SELECT DISTINCT ON (window_start, order_id)
         order_id, customer_id, product_id, amount, currency, region, created_at
  FROM TUMBLE(orders, created_at, INTERVAL '1 day') WHERE order_id IS NOT NULL
  ORDER BY window_start, order_id, created_at
);
"""


def b3_sql(ctx):
    return f"""
CREATE PIPELINE b3 WITH (trigger = 'once');

CREATE TABLE given ({COLUMNS}, created_at TIMESTAMP, WATERMARK FOR created_at AS created_at)
WITH (connector = 'files', path = '{ctx.data}/merge_source.parquet', format = 'parquet', bounded = 'true');

CREATE TABLE kept (order_id BIGINT, customer_id BIGINT, product_id BIGINT, amount DOUBLE, currency VARCHAR,
  region VARCHAR, created_at TIMESTAMP, PRIMARY KEY (order_id))
WITH (connector = 'delta', path = '{ctx.out}/delta_target', write = 'upsert');

INSERT INTO kept SELECT DISTINCT ON (order_id) order_id, customer_id, product_id, amount, currency, region, created_at
FROM given ORDER BY order_id, created_at DESC;
"""


def python_of(venv):
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "venv", venv, "bin", "python")


def aside(venv, code, *args):
    """Runs code in another venv of the kit, untimed; answers the JSON that it prints."""
    ran = subprocess.run([python_of(venv), "-c", code, *args], capture_output=True, text=True)
    if ran.returncode != 0:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout or "null")


# The target of the deltalake peer, made with its call.
TARGET = """
import sys, pyarrow as pa, pyarrow.parquet as pq
from deltalake import write_deltalake
f = pq.ParquetFile(sys.argv[1] + "/merge_target.parquet")
write_deltalake(sys.argv[2], pa.RecordBatchReader.from_batches(f.schema_arrow, f.iter_batches(250_000)), target_file_size=128 << 20)
"""
# How many rows there are, how many have a key of the source, and how many of these are exactly its rows.
MERGED = """
import json, sys, duckdb
from deltalake import DeltaTable
files = DeltaTable(sys.argv[2]).file_uris()
c = duckdb.connect(); c.execute("set threads=1")
n = c.execute(f"select count(*) from read_parquet({files!r})").fetchone()[0]
equal = " and ".join(f"t.{x} = s.{x}" for x in "customer_id product_id amount currency region created_at".split())
met, same = c.execute(f"select count(*), count(*) filter ({equal}) from read_parquet({files!r}) t join read_parquet('{sys.argv[1]}/merge_source.parquet') s using (order_id)").fetchone()
print(json.dumps(dict(rows_after=n, of_source=met, as_given=same)))
"""
GROUPS = """
import json, sys, duckdb
n, r, o, k, p = duckdb.connect().execute(f"select count(*), sum(revenue), sum(orders), sum(customers), sum(p95) from read_parquet('{sys.argv[1]}/res/*.parquet')").fetchone()
print(json.dumps(dict(groups=n, revenue=round(r, 2), orders=int(o), customers=int(k), p95_sum=round(p, 2))))
"""


def task(name, sql, note, way=("--trigger", "once"), before=None, after=None):
    def run(ctx):
        # Hidden, so that the checker, which reads what lies under ctx.out, does not take it for a result.
        project = f"{ctx.out}/.project"
        os.makedirs(f"{project}/pipelines")
        memory = os.environ.get("TIDEMILL_MEMORY")
        with open(f"{project}/tidemill.toml", "w") as f:
            f.write(f"[project]\nname = 'bench'\n\n[engine]\nlanes = {ctx.cores}\n")
            f.write(f"memory = '{memory}'\n" if memory else "")
        with open(f"{project}/pipelines/{name}.sql", "w") as f:
            f.write(sql(ctx))
        if before:
            before(ctx)
        began = time.time()
        subprocess.run([binary(), "run", name, *way], cwd=project, check=True)
        result = {"wall_s": time.time() - began, "note": note + (f"; memory = {memory}" if memory else "")}
        if name == "t0":
            result["result_check"] = {"ok": 1}
        if after:
            result["result_check"] = after(ctx)
        return result

    return run


def given_target(ctx):
    # Made once for all runs of a data set: every run begins with a copy of it.
    made = f"{ctx.data}/delta_target"
    if not os.path.isdir(f"{made}/_delta_log"):
        aside("deltalake", TARGET, ctx.data, made)
    shutil.copytree(made, f"{ctx.out}/delta_target")


# All orders of the data are of one day.
DAY = ("--interval", "2026-01-01/1d")
NOTE = "exactly-once files, process start included"
WINDOWS = f"{NOTE}; no row of a listed file is late"

main("tidemill", {
    "T0": task("t0", t0_sql, "one row through"),
    "S1": task("s1", s1_sql, NOTE),
    "S2": task("s2", s2_sql, WINDOWS),
    "S3": task("s3", s3_sql, WINDOWS),
    "S4": task("s4", s4_sql, WINDOWS),
    "B1": task("b1", b1_sql, f"{NOTE}; exact p95, exact distinct", DAY, after=lambda ctx: aside("duckdb", GROUPS, ctx.out)),
    "B2": task("b2", b2_sql, f"{NOTE}; the first by created_at", DAY),
    "B3": task("b3", b3_sql, f"{NOTE}; upsert", DAY, given_target,
               lambda ctx: aside("deltalake", MERGED, ctx.data, f"{ctx.out}/delta_target")),
})
