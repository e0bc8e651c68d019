-- The batch: one run over an interval does the heavy aggregation from the lake.
--   tidemill run report --interval 2026-01-01/1d
-- A second run of the same interval replaces the result of the first.
CREATE PIPELINE report WITH (trigger = 'once');

CREATE VIEW enriched AS
SELECT
  o.created_at,
  o.customer_id,
  o.amount,
  o.amount_usd,
  o.region,
  p.category,
  c.tier
FROM orders AS o
LEFT JOIN customers AS c ON o.customer_id = c.customer_id
LEFT JOIN products AS p ON o.product_id = p.product_id;

CREATE TABLE sales (
  day TIMESTAMP,
  region VARCHAR,
  category VARCHAR,
  tier VARCHAR,
  revenue DECIMAL(38, 2),
  revenue_usd DECIMAL(38, 2),
  orders BIGINT,
  customers BIGINT,
  mean_usd DOUBLE,
  p95_usd DOUBLE
) WITH (connector = 'files', path = 'data/sales/', format = 'parquet', write = 'replace', time_column = 'day');

INSERT INTO sales
SELECT
  window_start AS day,
  region,
  category,
  tier,
  sum(amount) AS revenue,
  sum(amount_usd) AS revenue_usd,
  count(*) AS orders,
  count(DISTINCT customer_id) AS customers,
  avg(CAST(amount_usd AS DOUBLE)) AS mean_usd,
  percentile_cont(CAST(amount_usd AS DOUBLE), 0.95) AS p95_usd
FROM TUMBLE(enriched, created_at, INTERVAL '1 day')
GROUP BY window_start, window_end, region, category, tier
ORDER BY revenue_usd DESC;
