-- A condition that fails makes its row dead, unless another one leaves the row out, on whichever side it stands.
-- @rows orders: 600 apart 1000
-- @counts failed division by zero in 100 / customer: customer = 0 AND region <> 'South'
-- @targets files log upsert id
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  note VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

CREATE VIEW shares AS SELECT id, 100 / customer AS share, region, paid, at FROM orders WHERE 100 / customer > 5;

-- @oracle
SELECT id, 100 / nullif(customer, 0) AS share, at FROM orders
WHERE 100 / nullif(customer, 0) > 5 AND region <> 'South' AND coalesce(paid, true)

-- @query
SELECT id, share, at FROM shares WHERE region <> 'South' AND (share < 0 OR paid OR paid IS NULL OR share > 1000)
