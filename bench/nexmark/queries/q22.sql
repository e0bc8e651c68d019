-- URL folders: the three folders of a bid's URL.
CREATE PIPELINE q22 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, dir1 VARCHAR, dir2 VARCHAR, dir3 VARCHAR)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT auction, bidder, price, channel,
  split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3
FROM bid;
