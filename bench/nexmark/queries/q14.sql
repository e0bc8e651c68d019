-- Calculation: filters and expressions over every bid. Adapted: the published query calls a function of the user's own that counts
-- the letter c; here the built-in functions do.
CREATE PIPELINE q14 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, bidder BIGINT, price DECIMAL(24, 3), bidtimetype VARCHAR, date_time TIMESTAMP, extra VARCHAR, c_counts BIGINT)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT
  auction,
  bidder,
  CAST(price AS DECIMAL(19, 0)) * CAST(0.908 AS DECIMAL(4, 3)) AS price,
  CASE
    WHEN date_part('hour', date_time) >= 8 AND date_part('hour', date_time) <= 18 THEN 'dayTime'
    WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
    ELSE 'otherTime'
  END AS bidtimetype,
  date_time,
  extra,
  CAST(length(extra) - length(replace(extra, 'c', '')) AS BIGINT) AS c_counts
FROM bid
WHERE CAST(price AS DECIMAL(19, 0)) * CAST(0.908 AS DECIMAL(4, 3)) > 1000000
  AND CAST(price AS DECIMAL(19, 0)) * CAST(0.908 AS DECIMAL(4, 3)) < 50000000;
