-- Small tables that the pipelines look things up in. No pipeline stands here: they are only declared.

-- What one unit of a currency is worth in US dollars.
CREATE TABLE rates (
  currency VARCHAR NOT NULL,
  usd DECIMAL(12, 6)
) WITH (connector = 'files', path = 'tables/rates.csv', format = 'csv', bounded = 'true');

-- Who orders and what is ordered, made up like the orders.
CREATE TABLE customers (
  customer_id BIGINT NOT NULL,
  region VARCHAR,
  tier VARCHAR
) WITH (connector = 'generator', model = 'customers');

CREATE TABLE products (
  product_id BIGINT NOT NULL,
  category VARCHAR
) WITH (connector = 'generator', model = 'products');
