-- The auction site: a million events, of which 20,000 are persons, 60,000 auctions and 920,000 bids. A thousand of them lie in a
-- second of event time, so that they are some seventeen minutes; they are out of order by less than two seconds.
CREATE TABLE person (
  id BIGINT,
  name VARCHAR,
  email_address VARCHAR,
  credit_card VARCHAR,
  city VARCHAR,
  state VARCHAR,
  date_time TIMESTAMP,
  extra VARCHAR,
  WATERMARK FOR date_time AS date_time - INTERVAL '2 seconds'
) WITH (connector = 'generator', model = 'nexmark', table = 'person', rows = '1000000', disorder = '2 seconds');

CREATE TABLE auction (
  id BIGINT,
  item_name VARCHAR,
  description VARCHAR,
  initial_bid BIGINT,
  reserve BIGINT,
  date_time TIMESTAMP,
  expires TIMESTAMP,
  seller BIGINT,
  category BIGINT,
  extra VARCHAR,
  WATERMARK FOR date_time AS date_time - INTERVAL '2 seconds'
) WITH (connector = 'generator', model = 'nexmark', table = 'auction', rows = '1000000', disorder = '2 seconds');

CREATE TABLE bid (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel VARCHAR,
  url VARCHAR,
  date_time TIMESTAMP,
  extra VARCHAR,
  WATERMARK FOR date_time AS date_time - INTERVAL '2 seconds'
) WITH (connector = 'generator', model = 'nexmark', table = 'bid', rows = '1000000', disorder = '2 seconds');
