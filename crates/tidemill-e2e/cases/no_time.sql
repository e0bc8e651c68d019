-- Rows of a table without event time, of other types.
-- @rows readings: 300 apart 1000
-- @live
-- @targets files delta
CREATE TABLE readings (id BIGINT, sensor INT, good BOOLEAN, day DATE, noticed TIMESTAMP, value DECIMAL(20, 6)) WITH (@input);

-- @query
SELECT id, sensor, CASE WHEN good THEN value ELSE -value END AS value, day, noticed
FROM readings
WHERE good IS NOT NULL AND sensor BETWEEN 0 AND 30
