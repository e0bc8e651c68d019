-- Groups that change meet a small table, and are taken back as they met it.
-- @rows orders: 400 apart 1000
-- @words orders.currency: EUR, USD, GBP, CHF
-- @row rates: {"currency": "EUR", "usd": 1.1, "note": "first"}
-- @row rates: {"currency": "EUR", "usd": 1.2, "note": "second"}
-- @row rates: {"currency": "USD", "usd": 1, "note": "only"}
-- @targets view
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
SELECT r.note, sum(g.n) AS n, sum(g.total * r.usd) AS in_usd
FROM (SELECT currency, region, count(*) AS n, sum(amount) AS total FROM orders GROUP BY currency, region) AS g
LEFT JOIN rates AS r ON g.currency = r.currency
GROUP BY r.note
