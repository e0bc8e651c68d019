-- A window of one value per NULL and of rows without a key; expressions as keys.
-- @rows orders: 300 apart 1500
-- @words orders.currency: eur, EUR, NULL, usd
-- @targets log view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  currency VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT
  upper(currency) AS currency, customer % 3 AS third, window_start, count(*) AS n, sum(amount) AS total
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY upper(currency), customer % 3, window_start, window_end
