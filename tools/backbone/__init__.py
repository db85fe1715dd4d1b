"""How the embedded net was trained: its pictures, what the teacher says to them, the student and its losses."""
