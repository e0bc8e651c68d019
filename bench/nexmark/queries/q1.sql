-- Currency conversion: every bid with its price in euros. A DECIMAL, so that it is the same in every mode.
CREATE PIPELINE q1 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, bidder BIGINT, price DECIMAL(24, 3), date_time TIMESTAMP, extra VARCHAR)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT auction, bidder, CAST(price AS DECIMAL(19, 0)) * CAST(0.908 AS DECIMAL(4, 3)) AS price, date_time, extra FROM bid;
