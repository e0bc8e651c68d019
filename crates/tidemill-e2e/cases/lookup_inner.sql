-- A stream is joined to a small table: two matches are two rows, no match is none, NULL matches nothing.
-- @rows orders: 300 apart 1000
-- @words orders.currency: eur, EUR, usd, gbp, chf
-- @row rates: {"currency": "EUR", "usd": 1.1, "note": "first"}
-- @row rates: {"currency": "EUR", "usd": 1.2, "note": "second"}
-- @row rates: {"currency": "USD", "usd": 1, "note": "only"}
-- @row rates: {"currency": null, "usd": 9, "note": "never matches"}
-- @row rates: {"currency": "GBP", "usd": null, "note": "no rate"}
-- @targets files log
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

-- @query
SELECT o.id, r.note, o.amount * r.usd AS in_usd
FROM orders AS o
JOIN rates AS r ON upper(o.currency) = r.currency AND o.amount > 5
