-- Aggregates that depend on the order of rows, with and without ORDER BY.
-- @rows orders: 500 apart 900
-- @targets files log view
-- @waits
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

-- @oracle
SELECT
  region, window_start,
  first_value(id ORDER BY at, amount, currency, customer, id) AS first,
  last_value(price ORDER BY customer DESC, amount, at, currency, id) AS last,
  nth_value(id, 2 ORDER BY at, amount, currency, customer, id) AS second,
  string_agg(currency, ',' ORDER BY at, amount, currency, customer, id) AS currencies,
  array_to_string(array_agg(id ORDER BY at, amount, currency, customer, id), '-') AS ids,
  sum(amount) AS total, count(*) AS n
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end

-- @query
SELECT
  region, window_start,
  first_value(id) AS first, last_value(price ORDER BY customer DESC) AS last, nth_value(id, 2) AS second,
  string_agg(currency, ',') AS currencies, array_to_string(array_agg(id), '-') AS ids,
  sum(amount) AS total, count(*) AS n
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end
