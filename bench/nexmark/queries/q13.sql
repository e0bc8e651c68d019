-- Bounded side input: each bid with a value looked up in a table that does not change. Adapted: the table is the generator's
-- products, 1000 rows, and the key is the auction modulo 1000.
CREATE PIPELINE q13 WITH (trigger = 'once');

CREATE TABLE side (product_id BIGINT, category VARCHAR) WITH (connector = 'generator', model = 'products');

CREATE TABLE result (auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, value VARCHAR)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT b.auction, b.bidder, b.price, b.date_time, s.category AS value
FROM bid AS b
JOIN side AS s ON b.auction % 1000 + 1 = s.product_id;
