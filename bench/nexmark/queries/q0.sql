-- Pass through: every bid as it is, to see what reading and writing cost.
CREATE PIPELINE q0 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra VARCHAR)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT auction, bidder, price, date_time, extra FROM bid;
