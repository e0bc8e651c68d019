CREATE PIPELINE prices WITH (trigger = 'once');

CREATE TABLE offers (item VARCHAR, price DOUBLE, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5 seconds')
  WITH (connector = 'files', path = 'in/', format = 'json');

-- Both functions come from main.rs; state on record knows their versions.
CREATE MATERIALIZED VIEW typical AS
SELECT price_band(price) AS band, window_start, geometric_mean(price) AS typical, count(*) AS offers
FROM TUMBLE(offers, at, INTERVAL '1 minute')
GROUP BY price_band(price), window_start, window_end;
