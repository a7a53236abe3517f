-- When the store was last swept, and by which node; how often an operator has accepted a clock, and what it said the last
-- time. Nothing is swept by age that a clock would end which does not fit.
CREATE TABLE clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_sweep INTEGER,
    swept_by TEXT,
    acceptances INTEGER NOT NULL DEFAULT 0,
    accepted_at INTEGER,
    CHECK ((acceptances > 0) = (accepted_at IS NOT NULL))
);
INSERT INTO clock (id) VALUES (1);
