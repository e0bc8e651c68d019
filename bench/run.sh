#!/usr/bin/env bash
# Side by side with peers on the same files in one run: bench/run.sh KIT [REPS] [DATA]
#   KIT   the folder of the peer kit (its README says what it measures); copied beside the build when it is read-only
#   REPS  runs of each, 3 unless given; the medians are shown
#   DATA  o10m (10 million orders, 1.5 GB of JSON) unless given, or o1m
# ONLY=regex picks peers by the name of their venv or script: ONLY='tidemill|duckdb'. TASKS='S3 S4' picks tasks.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,7p' "$0"; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd)
kit=$(cd "$1" && pwd); reps=${2:-3}; data=${3:-o10m}; only=${ONLY:-.}; tasks=${TASKS:-T0 S1 S2 S3 S4 B1 B2 B3}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$project/target}"

cargo build --release --manifest-path "$project/Cargo.toml" -p tidemill-deps -p tidemill
export TIDEMILL_BIN="$CARGO_TARGET_DIR/release/tidemill"

if [ ! -w "$kit" ]; then
  mkdir -p "$CARGO_TARGET_DIR/bench"
  cp -r --no-preserve=mode "$kit/." "$CARGO_TARGET_DIR/bench/"
  chmod +x "$CARGO_TARGET_DIR"/bench/*.sh
  kit="$CARGO_TARGET_DIR/bench"
fi
cp "$project/bench/peer_tidemill.py" "$kit/scripts/peer_tidemill.py"
cd "$kit"
mkdir -p logs tmp

# The checker reads results with DuckDB, the generator needs numpy: these two venvs are always made.
[ -x venv/gen/bin/python ] || ./install_one.sh gen numpy pyarrow
[ -x venv/duckdb/bin/python ] || ./install_one.sh duckdb duckdb
case $data in
  o1m) [ -f data/o1m/meta.json ] || venv/gen/bin/python gen_orders.py data/o1m --rows 1000000 ;;
  o10m) [ -f data/o10m/meta.json ] || venv/gen/bin/python gen_orders.py data/o10m --rows 10000000 ;;
esac
if [[ $tasks == *B3* ]]; then
  # The target and the source of the merge; our script makes the target's Delta table with the library that is a peer.
  [ -x venv/deltalake/bin/python ] || ./install_one.sh deltalake deltalake pyarrow
  venv/deltalake/bin/python -c 'import duckdb' 2>/dev/null || venv/deltalake/bin/pip install -q duckdb
  if [ ! -f "data/$data/merge_source.parquet" ]; then
    rows=$(venv/gen/bin/python -c "import json; print(json.load(open('data/$data/meta.json'))['rows'])")
    venv/gen/bin/python gen_orders.py "tmp/merge-$data" --rows "$rows" --merge-src "$((rows / 50))" --no-jsonl --no-parquet
    mv "tmp/merge-$data"/merge_*.parquet "data/$data/"
    rm -r "tmp/merge-$data"
  fi
fi
cat "data/$data"/jsonl/* "data/$data"/parquet/* >/dev/null   # warm page cache, for everyone alike

export RESULTS="${RESULTS:-results-$(date -u +%Y%m%dT%H%M%SZ).jsonl}"
run() { # VENV SCRIPT TASK [REPS]: skipped aloud when the venv is not there
  [[ "$1 $2" =~ $only ]] || return 0
  [ -x "venv/$1/bin/python" ] || { echo "not run: $2 $3 (no venv/$1; see the kit's README)"; return 0; }
  ./one.sh "${4:-$reps}" "$1" "$2" "$3" "data/$data"
}
batch() { # TASK PEER...: all take turns, so that what else the machine does hits everyone alike
  local task=$1; shift
  for _ in $(seq "$reps"); do
    run gen tidemill "$task" 1
    for peer in "$@"; do run "$peer" "${peer/pyspark/spark}" "$task" 1; done
  done
}
for task in $tasks; do
  case $task in
    B1) batch B1 duckdb datafusion polars pyspark; continue ;;
    B2) batch B2 duckdb polars pyspark; DF_B2=window run datafusion datafusion B2 1; continue ;;
    B3) batch B3 deltalake duckdb polars; continue ;;
  esac
  run gen tidemill "$task"
  [ "$task" != T0 ] || continue
  if [ -x limit/target/release/limit ]; then
    LIMIT_PARSER=hand run gen limit "$task"
    run gen limit "$task"
  else
    echo "not run: the limit program (build it in $kit/limit with RUSTFLAGS='-C target-cpu=native' cargo build --release)"
  fi
  [ "$task" != S1 ] || for peer in duckdb datafusion polars; do run "$peer" "$peer" S1; done
  run flink flink "$task"
  run pyspark spark "$task"
done
venv/gen/bin/python summarize.py "$RESULTS"
echo "lines: $kit/$RESULTS"
