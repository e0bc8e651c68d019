-- Windows of ten seconds: how many bids does a person make in each? Adapted: the published query takes the time of processing, whose
-- answer nobody can check; here it is event time.
CREATE PIPELINE q12 WITH (trigger = 'once');

CREATE TABLE result (bidder BIGINT, bid_count BIGINT, starttime TIMESTAMP, endtime TIMESTAMP)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT bidder, count(*) AS bid_count, window_start AS starttime, window_end AS endtime
FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end;
