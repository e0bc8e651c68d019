-- Local item suggestion: who sells in category 10 and lives in Oregon, Idaho or California? A join of two streams without a window:
-- an updating join.
CREATE PIPELINE q3 WITH (trigger = 'once');

CREATE MATERIALIZED VIEW result AS
SELECT p.name, p.city, p.state, a.id
FROM auction AS a
JOIN person AS p ON a.seller = p.id
WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA');
