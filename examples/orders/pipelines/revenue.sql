-- The stream: validates orders, cleans them, hands them on, and keeps revenue per minute up to date.
CREATE PIPELINE revenue WITH (trigger = 'continuous', checkpoint = '250 ms', latency = '5 seconds');

-- What comes in. Rows that lack an id or whose amount is not positive are kept as raw_orders.dead_letters, and so would be
-- records that are no JSON; all others are accepted.
CREATE TABLE raw_orders (
  order_id BIGINT NOT NULL,
  customer_id BIGINT,
  product_id BIGINT,
  amount DECIMAL(14, 4),
  currency VARCHAR,
  region VARCHAR,
  created_at TIMESTAMP,
  WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds',
  CONSTRAINT amount_not_positive CHECK (amount > 0) ON VIOLATION DEAD LETTER
) WITH (connector = 'log', topic = 'raw-orders', partitions = '8', key = 'order_id', format = 'json');

-- Two decimals, one spelling of each currency, and the amount in dollars.
CREATE VIEW cleaned AS
SELECT
  o.order_id,
  o.customer_id,
  o.product_id,
  CAST(o.amount AS DECIMAL(12, 2)) AS amount,
  upper(o.currency) AS currency,
  o.region,
  o.created_at,
  CAST(CAST(o.amount AS DECIMAL(12, 2)) * r.usd AS DECIMAL(14, 2)) AS amount_usd
FROM raw_orders AS o
LEFT JOIN rates AS r ON upper(o.currency) = r.currency;

-- The same orders for other pipelines. The key keeps the versions of one order in one partition.
CREATE TABLE cleaned_orders (
  order_id BIGINT NOT NULL,
  customer_id BIGINT,
  product_id BIGINT,
  amount DECIMAL(12, 2),
  currency VARCHAR,
  region VARCHAR,
  created_at TIMESTAMP,
  amount_usd DECIMAL(14, 2),
  WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds'
) WITH (connector = 'log', topic = 'cleaned-orders', partitions = '8', key = 'order_id', format = 'json');

INSERT INTO cleaned_orders SELECT * FROM cleaned;

-- Asked for over HTTP and by `tidemill query`, while it is being kept up to date.
CREATE MATERIALIZED VIEW revenue_per_minute WITH (retention = '7 days') AS
SELECT
  region,
  currency,
  window_start,
  sum(amount) AS revenue,
  sum(amount_usd) AS revenue_usd,
  count(*) AS orders
FROM TUMBLE(cleaned, created_at, INTERVAL '1 minute')
GROUP BY region, currency, window_start, window_end;
