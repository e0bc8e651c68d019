-- A left join keeps what has no match; windows over its result are final all the same.
-- @rows orders: 400 apart 1000
-- @words orders.currency: eur, EUR, usd, gbp, chf
-- @row rates: {"currency": "EUR", "usd": 1.1, "note": "first"}
-- @row rates: {"currency": "EUR", "usd": 1.2, "note": "second"}
-- @row rates: {"currency": "USD", "usd": 1, "note": "only"}
-- @row rates: {"currency": null, "usd": 9, "note": "never matches"}
-- @row rates: {"currency": "GBP", "usd": null, "note": "no rate"}
-- @targets files view
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
CREATE TABLE rates (currency VARCHAR, usd DECIMAL(12, 4), note VARCHAR) WITH (@lookup);

CREATE VIEW valued AS
SELECT o.id, o.region, o.at, o.amount, r.usd, r.note
FROM orders AS o
LEFT JOIN rates AS r ON upper(o.currency) = r.currency;

-- @query
SELECT note, window_start, count(*) AS n, sum(amount * usd) AS in_usd, count(usd) AS rated
FROM TUMBLE(valued, at, INTERVAL '1 minute')
GROUP BY note, window_start, window_end
