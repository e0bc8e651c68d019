-- The micro-batch: every five seconds, the cleaned orders that came in since go into a Delta table, one row for each order.
CREATE PIPELINE lake WITH (trigger = 'every 5 seconds', latency = '10 seconds');

CREATE TABLE orders (
  order_id BIGINT NOT NULL,
  customer_id BIGINT,
  product_id BIGINT,
  amount DECIMAL(12, 2),
  currency VARCHAR,
  region VARCHAR,
  created_at TIMESTAMP,
  amount_usd DECIMAL(14, 2),
  PRIMARY KEY (order_id),
  WATERMARK FOR created_at AS created_at - INTERVAL '10 seconds'
) WITH (connector = 'delta', path = 'data/lake/orders', write = 'upsert');

INSERT INTO orders SELECT * FROM cleaned_orders;
