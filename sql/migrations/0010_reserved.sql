-- The number is another branch's (protections). This file goes when that is merged.
SELECT;
