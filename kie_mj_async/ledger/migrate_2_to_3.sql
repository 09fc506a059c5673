-- Schema 2 knew no urgency of a job before its task was seen to end: creation and 14 days.

UPDATE job SET urgency = created_at + 1209600
WHERE expires_at IS NULL AND created_at IS NOT NULL;
