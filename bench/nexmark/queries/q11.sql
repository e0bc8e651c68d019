-- User sessions: how many bids does a person make in a session, which ends after ten seconds without one?
CREATE PIPELINE q11 WITH (trigger = 'once');

CREATE TABLE result (bidder BIGINT, bid_count BIGINT, starttime TIMESTAMP, endtime TIMESTAMP)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT bidder, count(*) AS bid_count, window_start AS starttime, window_end AS endtime
FROM SESSION(bid, date_time, INTERVAL '10 seconds', PARTITION BY bidder)
GROUP BY bidder, window_start, window_end;
