-- The shop: makes up a million orders, fifty thousand a second, and sends them to a topic as they come. What is no JSON goes
-- no further: it is kept as order_events.dead_letters.
CREATE PIPELINE ingest WITH (trigger = 'continuous', checkpoint = '100 ms');

-- Orders as real ones are: out of order by up to eight seconds, some without an id, some of zero or less, some no JSON.
-- A hundred of them lie in a second of event time, so that twenty seconds of demo are almost three hours of shop.
-- One split keeps their order, so that no partition of the topic runs ahead of another.
CREATE TABLE order_events (
  order_id BIGINT,
  customer_id BIGINT,
  product_id BIGINT,
  amount DECIMAL(14, 4),
  currency VARCHAR,
  region VARCHAR,
  created_at TIMESTAMP
) WITH (
  connector = 'generator', model = 'orders', seed = '42',
  rows = '1000000', rows_per_second = '50000', splits = '1',
  start = '2026-01-01', events_per_second = '100', disorder = '8 seconds',
  null_share = '0.004', invalid_share = '0.005', malformed_share = '0.0026');

INSERT INTO raw_orders SELECT * FROM order_events;
