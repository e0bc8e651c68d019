-- Log to files: every bid into folders by day and hour. Adapted: the day and the hour are columns of the rows, and the file sink
-- writes one folder.
CREATE PIPELINE q10 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra VARCHAR, dt VARCHAR, hm VARCHAR)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT auction, bidder, price, date_time, extra, to_char(date_time, '%Y-%m-%d') AS dt, to_char(date_time, '%H:%M') AS hm FROM bid;
