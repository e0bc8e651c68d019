-- Orders hour by hour: from the files that land to staging, silver, the warehouse and a report.
-- `tidemill plan orders` shows the steps, both clocks and what is missing; `tidemill start` runs what is due.
CREATE PIPELINE orders WITH (
  trigger = '@hourly', start = '2026-01-01', catchup = 'all', latency = '1 hour',
  end = '2026-01-01T06',             -- only because the orders of this example end then: leave it out for yours
  retries = '3', retry_delay = '1 minute'
);

-- What lands, one file or many, in no order. Rows may come five minutes after their time.
CREATE TABLE landing (
  order_id BIGINT NOT NULL, customer_id BIGINT, amount DECIMAL(12, 2), currency VARCHAR, region VARCHAR, created_at TIMESTAMP,
  WATERMARK FOR created_at AS created_at - INTERVAL '5 minutes',
  CONSTRAINT positive_amount CHECK (amount > 0) ON VIOLATION DEAD LETTER
) WITH (connector = 'files', path = 'landing/', format = 'json');

CREATE TABLE staging (
  order_id BIGINT, customer_id BIGINT, amount DECIMAL(12, 2), currency VARCHAR, region VARCHAR, created_at TIMESTAMP,
  WATERMARK FOR created_at AS created_at
) WITH (connector = 'files', path = 'lake/staging', format = 'parquet', write = 'replace', time_column = 'created_at');

CREATE TABLE silver (
  order_id BIGINT, customer_id BIGINT, amount DECIMAL(12, 2), currency VARCHAR, region VARCHAR, created_at TIMESTAMP,
  WATERMARK FOR created_at AS created_at
) WITH (connector = 'files', path = 'lake/silver', format = 'parquet', write = 'replace', time_column = 'created_at');

CREATE TABLE warehouse (
  order_id BIGINT, customer_id BIGINT, amount DECIMAL(12, 2), currency VARCHAR, region VARCHAR, created_at TIMESTAMP,
  PRIMARY KEY (order_id)
) WITH (connector = 'delta', path = 'lake/warehouse', write = 'upsert');

CREATE TABLE report (
  region VARCHAR, currency VARCHAR, window_start TIMESTAMP, window_end TIMESTAMP,
  orders BIGINT, customers BIGINT, revenue DECIMAL(38, 2), largest DECIMAL(12, 2)
) WITH (connector = 'files', path = 'lake/report', format = 'parquet', write = 'replace', time_column = 'window_start');

INSERT INTO staging SELECT * FROM landing;

INSERT INTO silver
SELECT order_id, customer_id, amount, upper(currency) AS currency, region, created_at
FROM staging WHERE currency IS NOT NULL;

INSERT INTO warehouse SELECT * FROM silver;

INSERT INTO report
SELECT region, currency, window_start, window_end,
  count(*) AS orders, count(DISTINCT customer_id) AS customers, sum(amount) AS revenue, max(amount) AS largest
FROM TUMBLE(silver, created_at, INTERVAL '1 hour')
GROUP BY region, currency, window_start, window_end;

-- Evaluated before the rows are published, in the same epoch.
CREATE EXPECTATION known_currency ON silver CHECK (currency IN ('EUR', 'USD', 'GBP')) ON VIOLATION QUARANTINE;
CREATE EXPECTATION one_row_an_order ON silver UNIQUE (order_id) ON VIOLATION QUARANTINE;
CREATE EXPECTATION usual_size ON silver ROWS WITHIN 80 % OF LAST 24 ON VIOLATION WARN;

-- A program of your own, after the report; it finds its hour in the environment.
CREATE TASK announce AFTER report, warehouse WITH (
  command = 'echo "orders of $TIDEMILL_INTERVAL_START are ready" | tee -a announced.log', timeout = '1 minute'
);
