-- Selection: the bids for few auctions.
CREATE PIPELINE q2 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, price BIGINT)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT auction, price FROM bid WHERE auction % 123 = 0;
