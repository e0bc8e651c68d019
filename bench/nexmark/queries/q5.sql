-- Hot items: of each hopping window the auctions with the most bids. The published query joins the counts with their greatest;
-- RANK over the window says the same.
CREATE PIPELINE q5 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, num BIGINT, starttime TIMESTAMP, endtime TIMESTAMP)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT auction, num, window_start AS starttime, window_end AS endtime
FROM (
  SELECT auction, num, window_start, window_end, rank() OVER (PARTITION BY window_start, window_end ORDER BY num DESC) AS place
  FROM (
    SELECT auction, count(*) AS num, window_start, window_end
    FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
    GROUP BY auction, window_start, window_end
  )
)
WHERE place = 1;
