-- Channel id: the number of a bid's channel, from its name or its URL.
CREATE PIPELINE q21 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, channel_id VARCHAR)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT auction, bidder, price, channel, channel_id
FROM (
  SELECT auction, bidder, price, channel,
    CASE lower(channel)
      WHEN 'apple' THEN '0'
      WHEN 'google' THEN '1'
      WHEN 'facebook' THEN '2'
      WHEN 'baidu' THEN '3'
      ELSE regexp_match(url, '(&|^)channel_id=([^&]*)')[2]
    END AS channel_id
  FROM bid
)
WHERE channel_id IS NOT NULL;
